from hypothesis import given
from hypothesis import strategies as st

from diagnosis.services import Grid, column_name, every_metric, held, is_used, row_length, service_table

#: Four samples a second for three seconds.
TICKS = [tick / 4 for tick in range(12)]
GRID = Grid(0.0, 3.0, 0.25)


def every_tick(*values: float) -> list[tuple[float, float]]:
    """Samples with these values, the last of them to the end."""
    return [(time_s, values[min(place, len(values) - 1)]) for place, time_s in enumerate(TICKS)]


def test_a_link_counts_to_who_dials_it() -> None:
    """Sockets and traffic of two links are one service's; the far end, of which nothing else is told, has no column."""
    series = {
        "link_connections": {"train1>metaserver:weights": every_tick(2.0), "train1>reward:reward": every_tick(1.0)},
        "link_rtt_s": {"train1>metaserver:weights": every_tick(0.1), "train1>reward:reward": every_tick(0.4)},
        "cpu_ratio": {"train1": every_tick(0.5), "trainers": every_tick(9.0)},
    }
    table = service_table(series, ["metaserver", "train1"], GRID)
    assert {name: column[0] for name, column in table.items()} == {
        "train1_cpu": 0.5,
        "train1_socket": 3.0,
        "train1_latency": 0.4,
    }


def test_silence_means_what_it_means() -> None:
    """A missed sample is a gap, a process that is gone uses nothing, and where nothing was told to flow nothing flowed."""
    alive = [sample for sample in every_tick(0.5) if sample[0] not in (0.5, 0.75)]
    series = {
        "cpu_ratio": {"train0": alive, "train1": every_tick(0.5)[:6]},
        "link_acked_bytes_per_s": {"train1>metaserver:weights": [(1.0, 8e5)]},
        "rpc/train_batch/latency_s": {"train1": [(0.5, 0.2), (2.0, 0.6)]},
    }
    table = service_table(series, ["train0", "train1"], GRID)
    assert table["train0_cpu"][1:5] == [0.5, None, None, 0.5] and held(table["train0_cpu"]) == [0.5] * 12
    assert table["train1_cpu"][5:] == [0.5, None, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert table["train1_workload"] == [0.8 if row == 4 else 0.0 for row in range(12)]
    assert held(table["train1_latency"]) == [0.2] * 8 + [0.6] * 4


def test_rows_are_as_far_apart_as_samples() -> None:
    """The distance of rows is the usual distance of one process's samples, whoever else is sampled."""
    assert row_length({"cpu_ratio": {"train0": every_tick(1.0), "train1": [(0.0, 1.0), (9.0, 1.0)]}}) == 0.25
    assert is_used("cpu_ratio") and not is_used("vsize_bytes")


@given(st.text("abz/_-:1", min_size=1), st.sampled_from(["train1", "train1>metaserver:weights"]))
def test_a_column_splits_in_one_place(metric: str, subject: str) -> None:
    """Whatever a metric is called, its column has one underscore, after the service."""
    assert column_name(subject, metric).split("_")[0] == "train1"
    assert column_name(subject, metric).count("_") == 1


@given(st.lists(st.tuples(st.floats(-5, 20), st.floats(-1e6, 1e6))))
def test_no_sample_counts_twice(samples: list[tuple[float, float]]) -> None:
    """Every sample within the grid is in the row of its moment, and every other in none."""
    placed = GRID.placed(samples)
    inside = [sample for sample in samples if 0 <= sample[0] < 3.0]
    assert set(placed) == {GRID.row_at(time_s) for time_s, _ in inside}
    assert all(min(v for _, v in samples) - 1e-6 <= value <= max(v for _, v in samples) + 1e-6 for value in placed.values())


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False)), min_size=1))
def test_holding_changes_nothing_that_was_told(column: list[float | None]) -> None:
    """A held column has no gap, and each told value in its place."""
    full = held(column)
    assert len(full) == len(column)
    assert all(value == told for value, told in zip(full, column, strict=True) if told is not None)


def test_every_single_metric_is_a_column() -> None:
    """Besides the figures nothing of a service is lost; what was missed stays empty."""
    table = every_metric({"rpc/save/retries": {"train1": [(0.5, 3.0)]}, "psi": {"machine": every_tick(1.0)}}, ["train1"], GRID)
    assert table == {"train1_rpc-save-retries": [3.0 if row == 2 else None for row in range(12)]}
