"""The stage-aware diagnoser on made-up jobs: each signal alone, blame upstream, and silence where nothing is wrong."""

import random

import pytest

from diagnosis.diagnosers import causal
from diagnosis.story import Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis
from tests.diagnosis.small_job import Job, clock, vocabulary

WORDS = vocabulary()
WAITED = "InferenceEngineError: UpdateWeightError: Failed to update weights: timed out after 10.0s waiting for weights"


def told(job: Job, words: Vocabulary = WORDS) -> Diagnosis:
    return causal.diagnose(job, words)


def starved() -> Job:
    """One upload never ends, and both rollout workers complain."""
    job = Job(WORDS)
    job.step(
        6,
        lost=(("w-701", "upload_weights"), ("w-a00", "update_weights"), ("w-a01", "update_weights"), ("w-700", "train_start")),
    )
    for who in ("w-a00", "w-a01"):
        job.say(who, 16.0, f"Exception: {WAITED}", "ERROR")
        job.say(
            "w-c0", 16.01, f"Exception caught when waiting for future: {WAITED.replace('Failed', f'{who}: Failed')}", "ERROR"
        )
    job.fail(16.1)
    return job


def test_blame_walks_upstream_from_those_who_wait() -> None:
    """Complaints of two rollout workers lead to the train worker whose weights they waited for, and the chain says so."""
    said = told(starved())
    assert said.ranked[0] == Cause("w-701", "weights_update", "network-bandwidth")
    assert said.chain == ("w-701", "w-a00")
    assert clock(6.0) <= said.alarm < clock(7.0)


def killed(code: int) -> Job:
    job = Job(WORDS)
    job.step(6, lost=(("w-a01", "generate"),))
    job.say("w-5c", 6.3, f"worker w-a01 (pid w-a01) ended with exit code {code}", "WARNING")
    job.say("w-c0", 6.35, "w-a01 generate: Connection lost: RemoteDisconnected('Remote end closed connection')", "ERROR")
    job.fail(7.0)
    return job


def test_a_death_is_told_by_its_exit_code() -> None:
    """A worker that ended by SIGKILL amid its work was killed, after it had begun to sample: as it scored."""
    assert told(killed(-9)).ranked[0] == Cause("w-a01", "reward", "process-kill")


def test_metrics_tell_why_it_was_killed() -> None:
    """The same death with the kernel's count of kills for want of memory is memory pressure."""
    job = killed(-9)
    job.gauge("group_oom_kills", "w-a01", [0] * 25 + [1])
    assert told(job).ranked[0].kind == "memory-pressure"


def test_own_words_beat_those_of_who_waits() -> None:
    """A train worker that runs out of memory is to blame, not its peer, whose time runs out in the same stage."""
    job = Job(WORDS)
    job.step(6, lost=(("w-700", "train_batch"), ("w-701", "train_batch")))
    own = "out of memory: tried to allocate 60.0 MiB, lease held by w-701 for 1.7s, attempt 35"
    job.say("w-701", 6.9, f"Exception: TrainEngineError: TrainBatchError: {own}", "ERROR")
    job.say("w-c0", 16.6, "w-700 train_batch: Request timeout after 10.0s for http://w-700:rpc/call", "ERROR")
    job.fail(16.7)
    assert told(job).ranked[0] == Cause("w-701", "train", "memory-pressure")


def test_who_lacks_a_device_that_another_holds_is_no_root() -> None:
    """An out-of-memory error that names another's lease accuses nobody by itself; the event that was not heard does."""
    job = Job(WORDS)
    job.step(6, late={("w-a00", "rollout_start"): 4.0}, lost=(("w-a00", "generate"),))
    job.say("w-c0", 7.8, "w-a00 rollout_start: Request timeout after 1.7s for http://w-a00:rpc/event", "ERROR")
    job.say("w-a00", 9.0, "out of memory: tried to allocate 48.0 MiB, lease held by w-700 for 4.1s, attempt 16", "WARNING")
    job.fail(12.0)
    assert told(job).ranked[0] == Cause("w-c0", "rollout", "network-partition")


def test_a_late_message_accuses_the_way_it_took() -> None:
    """An event heard seconds late by one worker, without any error, is a slow link from the controller."""
    job = Job(WORDS)
    job.step(6)
    job.lines["w-a01"] = [line for line in job.lines["w-a01"] if not (line[0] > 6.09 and line[0] < 6.11)]
    job.serve("w-a01", "rollout_start", 6, 9.7, 0.0)
    job.finish(11.0)
    assert told(job).ranked[0] == Cause("w-c0", "rollout", "network-delay")


def test_slow_work_is_told_from_its_peers() -> None:
    """Work many times as long as a worker's own and its peers' is its starvation; if all were as slow it is nobody's."""
    one, all_slow = Job(WORDS), Job(WORDS)
    one.step(6, late={("w-a01", "generate"): 3.0})
    all_slow.step(6, late={(name, "generate"): 3.0 for name in ("w-a00", "w-a01")})
    for job in (one, all_slow):
        job.finish(10.0)
    assert told(one).ranked[0] == Cause("w-a01", "rollout", "cpu-contention")
    assert not told(all_slow).fault


def test_nothing_is_wrong_with_a_healthy_job_however_uneven() -> None:
    """Forty jobs whose work takes up to three times its usual time: nobody is blamed."""
    draw = random.Random(3)
    for _ in range(40):
        job = Job(WORDS, steps=0)
        for step in range(8):
            late = {
                (w, what): took * draw.uniform(0, 2)
                for w in WORDS.components
                for what, took in (("generate", 0.08), ("train_batch", 0.08))
            }
            job.step(step, late)
        job.finish(9.0)
        said = told(job)
        assert not said.fault and not said.abstain, said.reason


def test_an_error_that_accuses_nobody_is_an_abstention() -> None:
    """A job that ended by an error without any sign of who: no guess."""
    job = Job(WORDS)
    job.fail(6.5)
    assert told(job).abstain


def test_forty_eight_workers() -> None:
    """In a job of 32 + 16 workers the one whose upload is missing is found among all that wait."""
    words = vocabulary(32, 16)
    job = Job(words, steps=12)
    waiting = tuple((name, "update_weights") for name in words.of_role("rollout"))
    job.step(12, lost=(("w-711", "upload_weights"), *waiting))
    job.fail(23.0)
    assert told(job, words).ranked[0] == Cause("w-711", "weights_update", "network-bandwidth")


@pytest.mark.parametrize("signal", causal.SIGNALS)
def test_each_signal_can_be_left_out(signal: str) -> None:
    """Without a signal no sign of it decides; every sign belongs to a signal that is known."""
    for job in (starved(), killed(-9)):
        story = Story(job, WORDS)
        signs = causal.gathered(job, story)
        assert {sign.signal for sign in signs} <= set(causal.SIGNALS)
        assert not causal.decide(story, [sign for sign in signs if sign.signal != signal]).reason.startswith(f"{signal}:")


def test_confidence_is_what_development_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often right as on the same ground in development; on one that was never met, as often as on all of them."""
    seen = {"absence: network-bandwidth": (9, 10), "link: network-loss": (2, 8)}
    monkeypatch.setattr(causal, "DEVELOPMENT", dict.fromkeys(causal.SIGHTS, seen))
    at_large = (9 + 2 + 1) / (10 + 8 + 2)
    assert told(starved()).confidence == pytest.approx((9 + 2 * at_large) / (10 + 2))
    assert told(killed(-9)).confidence == pytest.approx(at_large)
    monkeypatch.setattr(causal, "DEVELOPMENT", {sight: {} for sight in causal.SIGHTS})
    assert told(killed(-9)).confidence == pytest.approx(0.5)
