"""NVIDIA devices, through NVML. A machine without the driver has none; a figure that a card does not have is None."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pynvml as nv

from telemetry.gpm import GPM_METRICS, GpmProbe
from telemetry.registry import Registered
from telemetry.sources import MACHINE, Reading

logger = logging.getLogger("sampler")

#: Metric and unit, in the order of `_FIGURES`; then critical errors since the sampler began, and what GPM tells. The component
#: is ``gpu<index>``.
GPU_METRICS: tuple[tuple[str, str], ...] = (
    ("gpu_utilization_ratio", "ratio"),
    ("gpu_memory_busy_ratio", "ratio"),
    ("gpu_memory_used_bytes", "bytes"),
    ("gpu_memory_total_bytes", "bytes"),
    ("gpu_processes", "count"),
    ("gpu_power_w", "W"),
    ("gpu_temperature_c", "C"),
    ("gpu_sm_clock_hz", "Hz"),
    ("gpu_memory_clock_hz", "Hz"),
    ("gpu_throttle_reasons", "bits"),
    ("gpu_ecc_uncorrected", "count"),
    ("gpu_ecc_corrected", "count"),
    ("gpu_pcie_replays", "count"),
    ("gpu_xid_errors", "count"),
    ("gpu_last_xid", "code"),
    *GPM_METRICS,
)
_FIGURES: tuple[Callable[[Any], list[float]], ...] = (
    lambda card: [(rates := nv.nvmlDeviceGetUtilizationRates(card)).gpu / 100, rates.memory / 100],
    lambda card: [(memory := nv.nvmlDeviceGetMemoryInfo(card)).used, memory.total],
    lambda card: [len(nv.nvmlDeviceGetComputeRunningProcesses(card))],
    lambda card: [nv.nvmlDeviceGetPowerUsage(card) / 1e3],
    lambda card: [nv.nvmlDeviceGetTemperature(card, nv.NVML_TEMPERATURE_GPU)],
    lambda card: [nv.nvmlDeviceGetClockInfo(card, nv.NVML_CLOCK_SM) * 1e6],
    lambda card: [nv.nvmlDeviceGetClockInfo(card, nv.NVML_CLOCK_MEM) * 1e6],
    lambda card: [nv.nvmlDeviceGetCurrentClocksThrottleReasons(card)],
    lambda card: [_ecc(card, nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)],
    lambda card: [_ecc(card, nv.NVML_MEMORY_ERROR_TYPE_CORRECTED)],
    lambda card: [nv.nvmlDeviceGetPcieReplayCounter(card)],
)
_WIDTHS = (2, 2, *[1] * (len(_FIGURES) - 2))


class GpuSource:
    """Reads every device there is."""

    def __init__(self) -> None:
        self._cards: list[Any] = []
        self._insides: list[GpmProbe] = []
        self._events: Any = None
        self._xids: dict[int, list[int]] = {}
        self.lacks = ""
        try:
            nv.nvmlInit()
        except nv.NVMLError as error:
            self.lacks = str(error)
            return  # no driver, no devices
        self._cards = [nv.nvmlDeviceGetHandleByIndex(index) for index in range(nv.nvmlDeviceGetCount())]
        self._insides = [GpmProbe(card) for card in self._cards]
        self._listen()

    def follow(self, entries: dict[str, Registered]) -> None:
        """Devices do not come and go with processes."""

    def read(self, mono_s: float) -> Iterable[Reading]:  # noqa: ARG002 - a source is told the time
        """Per device, one value per `GPU_METRICS`."""
        self._collect_xids()
        for index, card in enumerate(self._cards):
            values = [value for figure, width in zip(_FIGURES, _WIDTHS, strict=True) for value in _asked(figure, card, width)]
            seen = self._xids.get(index)
            told: list[float | None] = [None, None] if seen is None else [float(len(seen)), float(seen[-1]) if seen else 0.0]
            yield MACHINE, f"gpu{index}", GPU_METRICS, [*values, *told, *self._insides[index].read()]

    def close(self) -> None:
        """Let go of the driver; idempotent."""
        if self._events is not None:
            nv.nvmlEventSetFree(self._events)
            self._events = None
        if self._cards:
            for inside in self._insides:
                inside.close()
            self._cards = []
            nv.nvmlShutdown()

    def _listen(self) -> None:
        """Ask for critical errors, card by card; one that does not tell them has None."""
        try:
            self._events = nv.nvmlEventSetCreate()
        except nv.NVMLError:
            return
        for index, card in enumerate(self._cards):
            try:
                nv.nvmlDeviceRegisterEvents(card, nv.nvmlEventTypeXidCriticalError, self._events)
                self._xids[index] = []
            except nv.NVMLError as error:
                logger.warning("gpu%d does not tell critical errors: %s", index, error)

    def _collect_xids(self) -> None:
        while self._xids:
            try:
                event = nv.nvmlEventSetWait_v2(self._events, 0)
            except nv.NVMLError:  # a time-out: there is none
                return
            index = nv.nvmlDeviceGetIndex(event.device)
            self._xids.setdefault(index, []).append(int(event.eventData))


def _asked(figure: Callable[[Any], list[float]], card: Any, width: int) -> list[float | None]:
    try:
        return [float(value) for value in figure(card)]
    except nv.NVMLError:
        return [None] * width


def _ecc(card: Any, kind: int) -> float:
    return float(nv.nvmlDeviceGetTotalEccErrors(card, kind, nv.NVML_VOLATILE_ECC))
