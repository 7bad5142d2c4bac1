"""Every indicator that the experiment plan names, row by row in its own words, and the metrics that are it here.

``python -m storage.plan_indicators`` prints the table of docs/metrics.md. Names and units are those of docs/metrics.md; a test
holds that each is written by somebody, and that no row of the plan is missing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """``role`` is the component without its rank (of a link, of both its ends); role and stage are empty for any."""

    name: str
    unit: str
    role: str = ""
    stage: str = ""


@dataclass(frozen=True)
class Row:
    """``plan`` is the plan's own word for it, ``name`` the same in English; ``note``: what else is to be known, or why not."""

    plan: str
    name: str
    metrics: tuple[Metric, ...]
    note: str = ""


_M = Metric
_NO_GPU = "a GPU's; none in the runs so far"
_UTILIZATION = (_M("gpu_utilization_ratio", "ratio", "gpu"),)
_GPU_MEMORY = (_M("gpu_memory_used_bytes", "bytes", "gpu"),)
_GPU = Row("GPU利用率", "GPU utilisation", _UTILIZATION, _NO_GPU)
_SM_METRICS = (_M("gpu_sm_active_ratio", "ratio", "gpu"), _M("gpu_sm_occupancy_ratio", "ratio", "gpu"), *_UTILIZATION)
_SM_NOTE = f"{_NO_GPU}; the first two from Hopper on, the last is what `nvidia-smi dmon` calls sm"
_UPDATE = _M("timeperf/weights_update_step", "s", "controller")
_ROLLOUT = _M("timeperf/rollout_step", "s", "controller")

#: By the scenario that shows it here, then the lists that are common to all, in the plan's order.
PLAN: dict[str, tuple[Row, ...]] = {
    "weight-sync-link": (
        Row("weights_update阶段总耗时", "weights_update in all", (_UPDATE,)),
        Row("Train端upload_weights耗时", "upload_weights", (_M("rpc/upload_weights/latency_s", "s", "train"),)),
        Row("Rollout端update_weights耗时", "update_weights", (_M("rpc/update_weights/latency_s", "s", "rollout"),)),
        Row(
            "MetaServer内存占用",
            "memory of the MetaServer",
            (
                _M("store_bytes", "bytes", "metaserver"),
                _M("store_keys_count", "count", "metaserver"),
                _M("rss_bytes", "bytes", "metaserver"),
            ),
            "never 0 as the plan has it: all shards but one arrive",
        ),
        Row(
            "网络吞吐量",
            "network throughput",
            (_M("link_acked_bytes_per_s", "bytes/s", "train>metaserver:weights"), _M("net_tx_bytes_per_s", "bytes/s")),
        ),
        _GPU,
        Row("GPU显存占用", "GPU memory used", _GPU_MEMORY, _NO_GPU),
        Row(
            "TCP连接状态",
            "state of the TCP connection",
            (
                _M("link_connections", "count", "train>metaserver:weights"),
                _M("link_send_queue_bytes", "bytes", "train>metaserver:weights"),
                _M("link_silent_s", "s", "train>metaserver:weights"),
            ),
            "established, a queue, and silence: nothing moves",
        ),
        Row("CPU利用率", "CPU", (_M("cpu_ratio", "cores", "train"),)),
        Row(
            "HTTP请求重传次数",
            "requests and segments sent again",
            (
                _M("link_retransmits_per_s", "1/s", "train>metaserver:weights"),
                _M("rpc/upload_weights/retries", "count", "train"),
            ),
        ),
        _GPU,
        Row("网络接收速率", "network, received", (_M("link_received_bytes_per_s", "bytes/s", "rollout>metaserver:weights"),)),
    ),
    "rollout-cpu-oom": (
        Row("rollout阶段总耗时", "rollout in all", (_ROLLOUT,)),
        Row(
            "train阶段启动延迟",
            "delay before train begins",
            (_M("stage_gap_s", "s", "controller", "train"), _M("timeperf/reference_step", "s", "controller")),
            "here the reference stage lies between rollout and train: the delay is without it",
        ),
        Row("rollout吞吐量（samples/sec）", "rollout throughput", (_M("samples_per_s", "samples/s", "controller", "rollout"),)),
        Row("数据batch size", "batch size", (_M("rollout_samples", "count", "controller"),)),
        Row(
            "CPU利用率",
            "CPU",
            (
                _M("cpu_ratio", "cores", "rollout"),
                _M("involuntary_switches_per_s", "1/s", "rollout"),
                _M("host_cpu_ratio", "ratio"),
            ),
            "who contends is not in the worker's own figure: the worker is put off its core, the host is busy",
        ),
        _GPU,
        Row("GPU SM占用率", "SM share of a GPU", _SM_METRICS, _SM_NOTE),
        Row("推理延迟（单个sample）", "time per sample", (_M("sample_s", "s", "rollout"),)),
        Row(
            "系统内存占用",
            "memory of the system",
            (_M("host_memory_available_bytes", "bytes"), _M("rss_bytes", "bytes", "rollout")),
        ),
        Row(
            "OOM killer触发",
            "OOM killer",
            (_M("group_oom_kills", "count", "rollout"), _M("kernel_oom_kills", "count")),
            "by control group, or where the kernel's log may be read; elsewhere memory is limited without a kill",
        ),
        Row("接收到的batch size", "samples a train worker got", (_M("samples", "count", "train"),)),
        Row(
            "Tensor shape验证失败",
            "batch refused by train",
            (_M("stage_failed_count", "count", "controller", "train"),),
            "its text is in the controller's log",
        ),
    ),
    "train-oom-masked": (
        Row("train阶段耗时", "train in all", (_M("timeperf/train_step", "s", "controller"),)),
        Row("cleanup阶段耗时", "cleanup in all", (_M("timeperf/cleanup", "s", "controller"),)),
        Row(
            "故障检测延迟",
            "from the first error to the controller",
            (_M("log/error_to_controller_s", "s"),),
            "made by the query, from the logs",
        ),
        Row(
            "日志时间差",
            "from the first error to the last",
            (_M("log/first_to_last_error_s", "s"),),
            "made by the query, from the logs",
        ),
        Row(
            "GPU显存占用",
            "device memory used",
            (_M("device_used_bytes", "bytes", "node"), _M("arena_used_bytes", "bytes", "train"), *_GPU_MEMORY),
            "without a GPU a file stands for the device",
        ),
        Row(
            "GPU显存分配速率",
            "growth of device memory",
            (_M("device_growth_bytes_per_s", "bytes/s"),),
            "made by the query, of a GPU or of what stands for it",
        ),
        Row(
            "CUDA分配失败次数",
            "allocations that failed",
            (_M("arena_failed_count", "count", "train"), _M("arena_given_up_count", "count", "train")),
        ),
        Row("SM利用率", "SM share of a GPU", _SM_METRICS, _SM_NOTE),
        Row(
            "Tensor Core利用率",
            "tensor cores",
            (_M("gpu_tensor_active_ratio", "ratio", "gpu"),),
            f"{_NO_GPU}; from Hopper on",
        ),
        Row(
            "Controller → Asystem API延迟",
            "delay from controller to scheduler",
            (
                _M("link_ping_s", "s", "controller>scheduler:scheduler"),
                _M("link_rtt_s", "s", "controller>scheduler:scheduler"),
            ),
            "the ping where that source is on",
        ),
        Row("stop_job HTTP请求耗时", "stop_job", (_M("rpc/stop_job/latency_s", "s", "scheduler"),)),
        Row(
            "其他worker cleanup成功数",
            "jobs that were not stopped",
            (_M("rpc/stop_job/failed_count", "count", "scheduler"),),
            "0 is a success",
        ),
    ),
    "colocated-handover-lost": (
        Row("rollout_start event耗时", "rollout_start event", (_M("timeperf/notify_rollout_start_event", "s", "controller"),)),
        Row("rollout阶段总耗时", "rollout in all", (_ROLLOUT,)),
        Row(
            "weights_update到rollout间隔",
            "from weights_update to rollout",
            (_M("stage_gap_s", "s", "controller", "rollout"),),
            "here the event belongs to rollout: the plan's figure is this and the event's",
        ),
        _GPU,
        Row(
            "GPU显存占用",
            "device memory used",
            (_M("device_used_bytes", "bytes", "node"), _M("arena_used_bytes", "bytes"), *_GPU_MEMORY),
            "without a GPU a file stands for the device",
        ),
        Row("GPU进程数", "processes on a GPU", (_M("gpu_processes", "count", "gpu"),), _NO_GPU),
        Row("CUDA context数", "CUDA contexts", (), "not there: NVML tells processes, not their contexts"),
        Row("SM占用率", "SM share of a GPU", _SM_METRICS, _SM_NOTE),
        Row("Event接收延迟", "delay of the event", (_M("event/rollout_start/delay_s", "s", "rollout"),)),
        Row(
            "CUDA分配尝试次数",
            "attempts of an allocation",
            (_M("arena_attempts_count", "count", "rollout"), _M("arena_failed_count", "count", "rollout")),
        ),
        Row("CUDA OOM错误", "out of device memory", (_M("arena_given_up_count", "count", "rollout"),)),
        Row(
            "网络接收延迟",
            "delay of the network",
            (_M("link_ping_s", "s", "controller>rollout:rpc"), _M("link_rtt_s", "s", "controller>rollout:rpc")),
            "the ping where that source is on; calls and events share a port, but on the plain host (`:event`)",
        ),
        Row("GPU锁状态", "lease of the shared device", (_M("device_leased", "flag"), _M("arena_lease_count", "count"))),
        Row(
            "等待rollout_end时长",
            "waiting for the device",
            (
                _M("arena_lease_wait_s", "s", "train"),
                _M("arena_wait_s", "s", "rollout"),
                _M("arena_lease_held_s", "s"),
            ),
            "a train worker that never gave the lease up does not wait: it holds it, and that is told by who waits",
        ),
    ),
    "checkpoint-torn": (
        Row("latest_recover_save耗时", "latest_recover_save", (_M("timeperf/latest_recover_save", "s", "controller"),)),
        Row("weights_update耗时", "weights_update in all", (_UPDATE,)),
        Row(
            "NFS可用空间", "room for checkpoints", (_M("disk_free_bytes", "bytes", "recover"),), "of NFS, too, where it is one"
        ),
        Row(
            "故障检测延迟",
            "from the fault to the first error",
            (_M("log/fault_to_error_s", "s"), _M("stage/fault_to_error_steps", "count")),
            "made by the query, from the logs and the announcements",
        ),
        Row(
            "磁盘写入速率", "written to storage", (_M("write_bytes_per_s", "bytes/s", "train"), _M("disk_writes_per_s", "1/s"))
        ),
        Row(
            "NFS写入延迟",
            "time per write",
            (_M("disk_write_latency_s", "s", "recover"), _M("nfs_write_latency_s", "s")),
            "no NFS in the runs so far; a disk in main memory (without root) has no latency",
        ),
        Row("fsync耗时", "fsync", (_M("disk_fsync_s", "s", "recover"), _M("disk_fsync_waiting_s", "s", "recover"))),
        Row(
            "Checkpoint文件大小",
            "size of the checkpoint",
            (_M("checkpoint_bytes", "bytes", "train"), _M("checkpoint_s", "s", "train")),
        ),
        Row(
            "IO wait百分比", "time waiting for storage", (_M("psi_io_some_ratio", "ratio"),), "null where the kernel has no PSI"
        ),
        Row("Checkpoint加载耗时", "reading the checkpoint", (_M("rpc/update_weights_from_disk/latency_s", "s", "rollout"),)),
        Row(
            "文件完整性校验",
            "checkpoint that does not load",
            (_M("rpc/update_weights_from_disk/failed_count", "count", "rollout"),),
        ),
        Row(
            "Disk read错误数",
            "errors of reading",
            (_M("kernel_fs_errors", "count"), _M("kernel_disk_errors", "count")),
            "where the kernel's log may be read; a file that is cut off is no error of the disk",
        ),
    ),
    "hardware": (
        Row("GPU利用率", "GPU utilisation", _UTILIZATION, _NO_GPU),
        Row("SM占用率", "SM share of a GPU", _SM_METRICS, _SM_NOTE),
        Row(
            "显存占用",
            "GPU memory",
            (*_GPU_MEMORY, _M("gpu_memory_total_bytes", "bytes", "gpu"), _M("gpu_memory_busy_ratio", "ratio", "gpu")),
            _NO_GPU,
        ),
        Row(
            "nvidia-smi dmon -s pucvmet",
            "power, clocks, violations, ECC, PCIe of a GPU",
            (
                _M("gpu_power_w", "W", "gpu"),
                _M("gpu_temperature_c", "C", "gpu"),
                _M("gpu_sm_clock_hz", "Hz", "gpu"),
                _M("gpu_throttle_reasons", "bits", "gpu"),
                _M("gpu_ecc_uncorrected", "count", "gpu"),
                _M("gpu_pcie_tx_bytes_per_s", "bytes/s", "gpu"),
            ),
            f"{_NO_GPU}; PCIe from Hopper on",
        ),
        Row("网络吞吐量", "network throughput", (_M("net_rx_bytes_per_s", "bytes/s"), _M("net_tx_bytes_per_s", "bytes/s"))),
        Row("网络延迟（ping）", "delay of a link", (_M("link_ping_s", "s"),)),
        Row("TCP连接状态", "state of TCP", (_M("link_connections", "count"), _M("link_connecting", "count"))),
        Row(
            "CPU、内存",
            "CPU and memory",
            (
                _M("host_cpu_ratio", "ratio"),
                _M("host_memory_available_bytes", "bytes"),
                _M("cpu_ratio", "cores"),
                _M("rss_bytes", "bytes"),
            ),
        ),
        Row(
            "磁盘IO",
            "disk",
            (_M("disk_reads_per_s", "1/s"), _M("disk_writes_per_s", "1/s"), _M("disk_busy_ratio", "ratio")),
            "of a device of one's own; as root",
        ),
        Row("NFS统计", "NFS", (_M("nfs_writes_per_s", "1/s"), _M("nfs_write_latency_s", "s")), "no NFS in the runs so far"),
    ),
    "application": (
        Row("Reward", "reward", (_M("reward", "ratio", "controller"),)),
        Row("KL散度", "KL to the reference", (_M("kl", "ratio", "controller"),)),
        Row("吞吐量", "throughput by stage", (_M("samples_per_s", "samples/s", "controller"),)),
        Row("阶段耗时", "time by stage", (_M("timeperf/e2e", "s", "controller"), _ROLLOUT)),
    ),
    "data flow": (
        Row("Rollout生成长度", "sequence length", (_M("seqlen", "count", "controller"),)),
        Row("Batch size", "batch size", (_M("batch_samples", "count", "controller"),)),
        Row("数据staleness", "versions behind", (_M("staleness_count", "count", "rollout"),)),
    ),
    "logs": (
        Row(
            "时间戳同步",
            "clocks of the hosts",
            (_M("clock_offset_s", "s"), _M("clock_error_s", "s")),
            "virtual hosts have one clock; hosts that are apart were never run",
        ),
        Row("日志聚合", "logs of all components", (), "`faultline logs`: by request id, window, component, level and word"),
        Row("故障标记", "marker of a fault", (), "`truth/markers.json`, with the plan's four keys"),
    ),
}

_TITLES = {
    "weight-sync-link": "Scenario 1, `weight-sync-link`",
    "rollout-cpu-oom": "Scenario 2, `rollout-cpu-oom`",
    "train-oom-masked": "Scenario 3, `train-oom-masked`",
    "colocated-handover-lost": "Scenario 4, `colocated-handover-lost`",
    "checkpoint-torn": "Scenario 5, `checkpoint-torn`",
    "hardware": "Hardware, all scenarios",
    "application": "Application",
    "data flow": "Data flow",
    "logs": "Logs",
}


def page() -> str:
    """The table of docs/metrics.md."""
    lines = ["| the plan's indicator | metric (unit), of whom | to be known |", "| --- | --- | --- |"]
    for part, rows in PLAN.items():
        lines.append(f"| **{_TITLES[part]}** | | |")
        lines += [f"| {row.plan}: {row.name} | {'; '.join(map(_told, row.metrics))} | {row.note} |" for row in rows]
    return "\n".join(lines) + "\n"


def _told(metric: Metric) -> str:
    whose = " ".join(filter(None, (metric.role, metric.stage and f"in {metric.stage}")))
    return f"`{metric.name}` ({metric.unit}){f', {whose}' if whose else ''}"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - that is what it is for
