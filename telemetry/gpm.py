"""What the insides of an NVIDIA device did between two looks: NVML's GPM, which there is from Hopper on."""

from __future__ import annotations

from typing import Any

import pynvml as nv

#: Metric, unit, NVML's number of it, and by what its figure is multiplied (percent and MiB/s there).
_ASKED = (
    ("gpu_sm_active_ratio", "ratio", nv.NVML_GPM_METRIC_SM_UTIL, 0.01),
    ("gpu_sm_occupancy_ratio", "ratio", nv.NVML_GPM_METRIC_SM_OCCUPANCY, 0.01),
    ("gpu_tensor_active_ratio", "ratio", nv.NVML_GPM_METRIC_ANY_TENSOR_UTIL, 0.01),
    ("gpu_pcie_tx_bytes_per_s", "bytes/s", nv.NVML_GPM_METRIC_PCIE_TX_PER_SEC, float(1 << 20)),
    ("gpu_pcie_rx_bytes_per_s", "bytes/s", nv.NVML_GPM_METRIC_PCIE_RX_PER_SEC, float(1 << 20)),
)
GPM_METRICS: tuple[tuple[str, str], ...] = tuple((name, unit) for name, unit, _, _ in _ASKED)


class GpmProbe:
    """Takes a sample of one card at each reading, and compares it with the one before. A card without GPM has only None."""

    def __init__(self, card: Any) -> None:
        self._card = card
        self._samples: list[Any] = []
        self._taken = 0
        self._question = nv.c_nvmlGpmMetricsGet_t()
        self._question.version = nv.NVML_GPM_METRICS_GET_VERSION
        self._question.numMetrics = len(_ASKED)
        for place, (_, _, number, _) in enumerate(_ASKED):
            self._question.metrics[place].metricId = number
        try:
            if nv.nvmlGpmQueryDeviceSupport(card).isSupportedDevice:
                self._samples = [nv.nvmlGpmSampleAlloc(), nv.nvmlGpmSampleAlloc()]
        except nv.NVMLError:
            pass  # a driver from before GPM

    def read(self) -> list[float | None]:
        """One value per `GPM_METRICS` over the time since the last reading; None on the first, and where the card has none."""
        nothing: list[float | None] = [None] * len(_ASKED)
        if not self._samples:
            return nothing
        before, now = self._samples[self._taken % 2 - 1], self._samples[self._taken % 2]
        try:
            nv.nvmlGpmSampleGet(self._card, now)
            self._taken += 1
            if self._taken == 1:
                return nothing
            self._question.sample1, self._question.sample2 = before, now
            told = nv.nvmlGpmMetricsGet(self._question).metrics
        except nv.NVMLError:
            return nothing
        answers = [(told[place], factor) for place, (_, _, _, factor) in enumerate(_ASKED)]
        return [one.value * factor if one.nvmlReturn == nv.NVML_SUCCESS else None for one, factor in answers]

    def close(self) -> None:
        """Give the samples back, before the driver is let go; idempotent."""
        for sample in self._samples:
            nv.nvmlGpmSampleFree(sample)
        self._samples = []
