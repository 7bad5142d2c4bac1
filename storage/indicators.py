"""The plan's five scenario tables, each filled from real runs by one query.

A row is told twice where the scenario has a target: for the target, and for its peers; a link is the target's where it ends
there. *healthy* is the scenario's control arm and the runs of no-fault; *fault* is what came after the fault had been applied,
in one other arm, and for what the sampler read, until it was gone. What it read before the first step belongs to neither.
A metric that no run has (a GPU's, on a machine without one) is a row without numbers.
"""

from __future__ import annotations

from storage.catalogue import Answer, query
from storage.plan_indicators import PLAN, Metric

#: What is made from logs, announcements and other metrics by the query itself, and its unit.
DERIVED = {
    "log/fault_to_error_s": "s",
    "log/error_to_controller_s": "s",
    "log/first_to_last_error_s": "s",
    "stage/fault_to_error_steps": "count",
    "device_growth_bytes_per_s": "bytes/s",
}
#: Those parts of the plan that are of one scenario.
SCENARIOS = ("weight-sync-link", "rollout-cpu-oom", "train-oom-masked", "colocated-handover-lost", "checkpoint-torn")


def plan_table(scenario: str, arm: str = "legacy") -> Answer:
    """The plan's table of a scenario, from all its valid runs. ValueError names the scenarios that have one.

    Columns: place, indicator, metric, who (role, or target and peers), unit, healthy_n, healthy_mean, healthy_sd, fault_n,
    fault_mean, fault_min, fault_max. Figures are null where nothing was measured.
    """
    return query(plan_table_sql(scenario), parameters={"scenario": scenario, "arm": arm})


def plan_table_sql(scenario: str) -> str:
    """The query; it takes ``$scenario`` and ``$arm``."""
    if scenario not in SCENARIOS:
        raise ValueError(f"no table of the plan for {scenario!r}; for: {', '.join(SCENARIOS)}")
    rows = [
        f"({place}, {nth}, {_text(row.name)}, {_text(one.name)}, {_text(one.role)}, {_text(one.stage)})"
        for place, row in enumerate(PLAN[scenario], start=1)
        for nth, one in enumerate(row.metrics or (Metric("", ""),))
    ]
    return _QUERY.replace("/* wanted */", ",\n           ".join(rows))


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_QUERY = """
WITH wanted(place, nth, indicator, metric, of_role, of_stage) AS (
    VALUES /* wanted */
),
chosen AS (
    SELECT run_id, scenario <> 'no-fault' AND arm <> 'control' AS faulty FROM runs
    WHERE valid AND (scenario = 'no-fault' OR (scenario = $scenario AND arm IN ('control', $arm)))
),
faults AS (
    SELECT run_id, min(wall_s) FILTER (state = 'applied') AS from_s,
           arg_min(step, wall_s) FILTER (state = 'applied') AS at_step,
           coalesce(max(wall_s) FILTER (state = 'gone'), 'infinity'::DOUBLE) AS to_s,
           list_distinct(flatten(list(regexp_extract_all(target, '[a-z]+[0-9]+')))) AS targets
    FROM injections JOIN chosen USING (run_id) GROUP BY run_id
),
errors AS (
    SELECT run_id, any_value(from_s) AS from_s, min(wall_s) AS first_s, max(wall_s) AS last_s,
           min(wall_s) FILTER (component = 'controller') AS controller_s
    FROM logs JOIN faults USING (run_id) WHERE level = 'ERROR' AND wall_s >= from_s GROUP BY run_id
),
failed AS (
    SELECT run_id, min(wall_s) AS wall_s, min(events.step) - any_value(at_step) AS steps
    FROM events JOIN faults USING (run_id) WHERE phase = 'error' AND events.step >= at_step GROUP BY run_id
),
derived AS (
    SELECT run_id, first_s AS wall_s, 'job' AS component, 0 AS step, '' AS stage, 'log/fault_to_error_s' AS metric, 's' AS unit,
           first_s - from_s AS value FROM errors
    UNION ALL SELECT run_id, controller_s, 'job', 0, '', 'log/error_to_controller_s', 's', controller_s - first_s FROM errors
    UNION ALL SELECT run_id, last_s, 'job', 0, '', 'log/first_to_last_error_s', 's', last_s - first_s FROM errors
    UNION ALL SELECT run_id, wall_s, 'job', 0, '', 'stage/fault_to_error_steps', 'count', steps FROM failed
    UNION ALL SELECT run_id, wall_s, component, -1, '', 'device_growth_bytes_per_s', 'bytes/s',
           (value - lag(value) OVER beats) / nullif(wall_s - lag(wall_s) OVER beats, 0)
    FROM metrics WHERE metric IN ('gpu_memory_used_bytes', 'device_used_bytes')
    WINDOW beats AS (PARTITION BY run_id, component ORDER BY wall_s)
),
figures AS (
    SELECT run_id, wall_s, component, step, stage, metric, unit, value,
           min(wall_s) FILTER (step >= 0) OVER (PARTITION BY run_id) AS begun_s
    FROM metrics JOIN chosen USING (run_id)
    UNION ALL SELECT *, NULL FROM derived
),
told AS (
    SELECT place, nth, unit, value, faulty, regexp_replace(component, '[0-9]+(>|:|$)', '\\1', 'g') AS role,
           coalesce(list_has_any(targets, regexp_extract_all(component, '[a-z]+[0-9]+')), false) AS is_target
    FROM figures JOIN chosen USING (run_id) LEFT JOIN faults USING (run_id)
    JOIN wanted USING (metric)
    WHERE value IS NOT NULL AND isfinite(value)
      AND of_role IN ('', regexp_replace(component, '[0-9]+(>|:|$)', '\\1', 'g')) AND of_stage IN ('', coalesce(stage, ''))
      AND (step >= 0 OR begun_s IS NULL OR wall_s >= begun_s)
      AND (NOT faulty OR (wall_s >= from_s AND (step >= 0 OR wall_s <= to_s)))
),
sides AS (
    SELECT DISTINCT place, nth, unit, role, is_target FROM told WHERE faulty
    UNION SELECT DISTINCT place, nth, unit, role, false FROM told WHERE NOT faulty
)
SELECT wanted.place, indicator, wanted.metric,
       CASE WHEN sides.is_target THEN sides.role || ', target' ELSE sides.role END AS who, sides.unit,
       count(value) FILTER (NOT faulty) AS healthy_n, avg(value) FILTER (NOT faulty) AS healthy_mean,
       stddev_samp(value) FILTER (NOT faulty) AS healthy_sd,
       count(value) FILTER (faulty AND told.is_target = sides.is_target) AS fault_n,
       avg(value) FILTER (faulty AND told.is_target = sides.is_target) AS fault_mean,
       min(value) FILTER (faulty AND told.is_target = sides.is_target) AS fault_min,
       max(value) FILTER (faulty AND told.is_target = sides.is_target) AS fault_max
FROM wanted LEFT JOIN sides USING (place, nth)
LEFT JOIN told ON told.place = sides.place AND told.nth = sides.nth AND told.unit = sides.unit AND told.role = sides.role
GROUP BY 1, 2, 3, 4, 5, wanted.nth ORDER BY wanted.place, wanted.nth, who
"""
