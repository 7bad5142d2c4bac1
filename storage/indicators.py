"""The plan's five scenario tables: which metric is which indicator, and the one query that fills each table from real runs.

A row is told twice where the scenario has a target: for the target, and for its peers. *healthy* is the scenario's control arm
and the runs of no-fault; *fault* is what came after the fault had been applied, in the other arms, and for what the sampler
read, until it was gone. A metric that no source here has (a GPU's, on a machine without one) is a row without numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.catalogue import Answer, query


@dataclass(frozen=True)
class Indicator:
    """``role`` and ``stage`` narrow the metric; empty = any. ``name`` is the plan's indicator, in English."""

    name: str
    metric: str
    role: str = ""
    stage: str = ""


_I = Indicator
_MACHINE = (_I("network throughput, sent", "net_tx_bytes_per_s"), _I("TCP segments sent again", "tcp_retransmits_per_s"))
_GPU = (_I("GPU utilisation", "gpu_utilization_ratio"), _I("GPU memory used", "gpu_memory_used_bytes"))
_WORKER = (_I("CPU", "cpu_ratio"), _I("resident memory", "rss_bytes"), _I("alive", "process_alive"))

#: By the scenario that shows it here, in the plan's order.
TABLES_OF_THE_PLAN: dict[str, tuple[Indicator, ...]] = {
    "weight-sync-link": (
        _I("weights_update in all", "timeperf/weights_update_step", "controller"),
        _I("upload_weights", "rpc/upload_weights/latency_s", "train"),
        _I("update_weights", "rpc/update_weights/latency_s", "rollout"),
        _I("memory of the MetaServer", "rss_bytes", "metaserver"),
        *_MACHINE,
        *(_I(one.name, one.metric, "train") for one in (*_GPU, *_WORKER)),
        _I("network throughput, received", "net_rx_bytes_per_s"),
    ),
    "rollout-cpu-oom": (
        _I("rollout in all", "timeperf/rollout_step", "controller"),
        _I("train in all", "timeperf/train_step", "controller"),
        _I("rollout throughput", "samples_per_s"),
        _I("batch size", "batch_samples"),
        _I("generate", "rpc/generate/latency_s", "rollout"),
        *(_I(one.name, one.metric, "rollout") for one in (*_GPU, *_WORKER)),
        _I("put off the core", "involuntary_switches_per_s", "rollout"),
        _I("memory left on the machine", "host_memory_available_bytes"),
        _I("samples a train worker got", "samples", "train"),
    ),
    "train-oom-masked": (
        _I("train in all", "timeperf/train_step", "controller"),
        _I("cleanup in all", "timeperf/cleanup", "controller"),
        _I("train_batch", "rpc/train_batch/latency_s", "train"),
        _I("memory used on the shared device", "arena_used_bytes", "train"),
        _I("allocations that failed", "arena_failed_count", "train"),
        *(_I(one.name, one.metric, "train") for one in (*_GPU, *_WORKER)),
        _I("stop_job", "rpc/stop_job/latency_s"),
    ),
    "colocated-handover-lost": (
        _I("rollout_start event", "timeperf/notify_rollout_start_event", "controller"),
        _I("rollout in all", "timeperf/rollout_step", "controller"),
        _I("event to a rollout worker", "rpc/rollout_start/latency_s", "rollout"),
        _I("lease of the shared device", "arena_lease_count"),
        _I("memory used on the shared device", "arena_used_bytes"),
        _I("attempts of an allocation", "arena_attempts_count", "rollout"),
        _I("allocations that failed", "arena_failed_count", "rollout"),
        _I("waiting for an allocation", "arena_wait_s", "rollout"),
        *(_I(one.name, one.metric) for one in (*_GPU, *_WORKER)),
    ),
    "checkpoint-torn": (
        _I("latest_recover_save", "timeperf/latest_recover_save", "controller"),
        _I("weights_update in all", "timeperf/weights_update_step", "controller"),
        _I("save", "rpc/save/latency_s", "train"),
        _I("upload_weights", "rpc/upload_weights/latency_s", "train"),
        _I("written to storage", "write_bytes_per_s", "train"),
        _I("read from storage", "read_bytes_per_s", "train"),
        _I("time waiting for storage", "psi_io_some_ratio"),
        *(_I(one.name, one.metric, "train") for one in _WORKER),
    ),
}


def plan_table(scenario: str) -> Answer:
    """The plan's table of a scenario, from all its valid runs. ValueError names the scenarios that have one.

    Columns: place, indicator, who (role, or target and peers), unit, healthy_n, healthy_mean, healthy_sd, fault_n, fault_mean,
    fault_min, fault_max. Figures are null where nothing was measured.
    """
    return query(plan_table_sql(scenario), parameters={"scenario": scenario})


def plan_table_sql(scenario: str) -> str:
    """The query; it takes ``$scenario``."""
    if scenario not in TABLES_OF_THE_PLAN:
        raise ValueError(f"no table of the plan for {scenario!r}; for: {', '.join(TABLES_OF_THE_PLAN)}")
    rows = [
        f"({place}, {_text(one.name)}, {_text(one.metric)}, {_text(one.role)}, {_text(one.stage)})"
        for place, one in enumerate(TABLES_OF_THE_PLAN[scenario], start=1)
    ]
    return _QUERY.replace("/* wanted */", ",\n           ".join(rows))


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_QUERY = """
WITH wanted(place, indicator, metric, of_role, of_stage) AS (
    VALUES /* wanted */
),
chosen AS (
    SELECT run_id, arm <> 'control' AND scenario <> 'no-fault' AS faulty FROM runs
    WHERE valid AND (scenario = $scenario OR scenario = 'no-fault')
),
faults AS (
    SELECT run_id, min(wall_s) FILTER (state = 'applied') AS from_s,
           coalesce(max(wall_s) FILTER (state = 'gone'), 'infinity'::DOUBLE) AS to_s,
           list_distinct(list(split_part(split_part(target, '>', 1), ':', 1))) AS targets
    FROM injections GROUP BY run_id
),
told AS (
    SELECT place, unit, value, faulty, regexp_replace(component, '[0-9]+$', '') AS role,
           coalesce(list_contains(targets, component), false) AS is_target
    FROM metrics JOIN chosen USING (run_id) LEFT JOIN faults USING (run_id)
    JOIN wanted USING (metric)
    WHERE value IS NOT NULL AND isfinite(value)
      AND of_role IN ('', regexp_replace(component, '[0-9]+$', '')) AND of_stage IN ('', coalesce(stage, ''))
      AND (NOT faulty OR (wall_s >= from_s AND (step >= 0 OR wall_s <= to_s)))
),
sides AS (
    SELECT DISTINCT place, unit, role, is_target FROM told WHERE faulty
    UNION SELECT DISTINCT place, unit, role, false FROM told WHERE NOT faulty
)
SELECT wanted.place, indicator, CASE WHEN sides.is_target THEN sides.role || ', target' ELSE sides.role END AS who, sides.unit,
       count(value) FILTER (NOT faulty) AS healthy_n, avg(value) FILTER (NOT faulty) AS healthy_mean,
       stddev_samp(value) FILTER (NOT faulty) AS healthy_sd,
       count(value) FILTER (faulty AND told.is_target = sides.is_target) AS fault_n,
       avg(value) FILTER (faulty AND told.is_target = sides.is_target) AS fault_mean,
       min(value) FILTER (faulty AND told.is_target = sides.is_target) AS fault_min,
       max(value) FILTER (faulty AND told.is_target = sides.is_target) AS fault_max
FROM wanted LEFT JOIN sides USING (place)
LEFT JOIN told ON told.place = sides.place AND told.unit = sides.unit AND told.role = sides.role
GROUP BY ALL ORDER BY wanted.place, who
"""
