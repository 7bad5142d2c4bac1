"""The physics that the causal diagnoser knows, on made-up jobs: what each way to break leaves, and what is harmless."""

from dataclasses import replace

import pytest

from diagnosis.diagnosers import causal
from diagnosis.story import Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis
from tests.diagnosis.small_job import Job, clock, vocabulary

WORDS = vocabulary()
#: Samples at a quarter of a second: trouble begins with the step at 6.0 s, and is over with the job at 12.0 s.
BEFORE, AFTER = 24, 24
LINK, EVENT_LINK = "w-701>w-3e:weights", "w-c0>w-a01:rpc"


def told(job: Job) -> Diagnosis:
    return causal.diagnose(job, WORDS)


def failed(*lost: tuple[str, str]) -> Job:
    """Six good steps; in the seventh some (who, what) never end, and the job gives up at 12.0 s where it was."""
    job = Job(WORDS)
    job.step(6, lost=lost)
    last_s = {"upload_weights": 6.05, "update_weights": 6.05, "generate": 6.2}
    stuck_s = min([last_s[what] for _, what in lost], default=7.0)
    for name in WORDS.components:
        job.lines[name] = [line for line in job.lines[name] if line[0] <= stuck_s + 0.05]
    for name in WORDS.components:
        job.gauge("process_state", name, [1] * (BEFORE + AFTER))
        job.gauge("process_alive", name, [1] * (BEFORE + AFTER))
    job.say("w-c0", 11.9, "Exception caught when waiting for future: TrainEngineError: something failed", "ERROR")
    job.fail(12.0)
    return job


def without_upload() -> Job:
    """The upload of one train worker never ends, and nobody gets new weights."""
    return failed(("w-701", "upload_weights"), ("w-a00", "update_weights"), ("w-a01", "update_weights"))


def state(job: Job, who: str, metric: str, values: list[float]) -> Job:
    """The job with another series of one subject."""
    job.samples[metric] = [sample for sample in job.samples.get(metric, []) if sample.subject != who]
    job.gauge(metric, who, values)
    return job


def link(job: Job, name: str, **series: list[float]) -> Job:
    """The job with what is known of a link from the seventh step on; nothing under way before, and short round trips."""
    usual = {
        "send_queue_bytes": 0.0,
        "acked_bytes_per_s": 0.0,
        "received_bytes_per_s": 0.0,
        "retransmits_per_s": 0.0,
        "connecting": 0.0,
        "rtt_s": 0.001,
    }
    for metric, rest in usual.items():
        found = series.get(metric, [rest] * AFTER)
        for other in {name, "w-c0>w-700:rpc", "w-700>w-3e:weights"}:
            job.gauge(f"link_{metric}", other, [rest] * BEFORE + (found if other == name else [rest] * AFTER))
    return job


def test_a_process_that_stands_still() -> None:
    """A state of stopped names the process, and the last line it wrote the stage: after that it was missed."""
    job = state(failed(("w-a01", "generate")), "w-a01", "process_state", [1] * (BEFORE + 1) + [3] * (AFTER - 1))
    assert told(job).ranked[0] == Cause("w-a01", "reward", "process-pause")


def test_a_process_that_is_gone() -> None:
    """A process that is there no more before the end was killed; by its kernel's count of such kills, for want of memory."""
    job = failed(("w-a01", "generate"))
    state(job, "w-a01", "process_alive", [1] * (BEFORE + 1) + [0] * (AFTER - 1))
    assert told(job).ranked[0] == Cause("w-a01", "reward", "process-kill")
    job.gauge("group_oom_kills", "w-a01", [0] * (BEFORE + 1) + [1] * (AFTER - 1))
    assert told(job).ranked[0] == Cause("w-a01", "reward", "memory-pressure")


def test_a_process_that_wants_a_core() -> None:
    """Of two train workers that are as slow, because they wait for one another, the runnable one starves."""
    job = Job(WORDS)
    job.step(6, late={(name, "train_batch"): 4.0 for name in ("w-700", "w-701")})
    for name in WORDS.components:
        hungry = name == "w-701"
        job.gauge("process_state", name, [1] * (BEFORE + 2) + [0 if hungry else 1] * 18 + [1] * 4)
        job.gauge("cpu_ratio", name, [0.1] * (BEFORE + 2) + [0.1] * 22)
    job.finish(12.0)
    assert told(job).ranked[0] == Cause("w-701", "train", "cpu-contention")


def test_a_process_that_wants_a_core_all_along() -> None:
    """No stage stands out, and nobody complains, but a step takes long and whoever works in it is kept from its core."""
    job = Job(WORDS, steps=5)
    for name in WORDS.components:
        role = WORDS.roles[name]
        job.gauge("process_state", name, [1] * 20 + [0 if name == "w-701" else 1] * 20)
        job.gauge("cpu_ratio", name, [0.1] * 40)
        for what, at_s, took_s in (("upload_weights", 5.0, 1.0), ("train_batch", 8.2, 1.0)):
            if role == "train":
                job.serve(name, what, 5, at_s + took_s, took_s)
        for what, at_s, took_s in (("update_weights", 5.0, 1.1), ("generate", 6.7, 1.0)):
            if role == "rollout":
                job.serve(name, what, 5, at_s + took_s, took_s)
    for at_s, what in ((5.0, "update weight"), (6.2, "notify_rollout_start_event"), (6.7, "rollout"), (7.8, "train")):
        job.say("w-c0", at_s, f"start to {what}, step: 5, epoch: 0")
    job.say("w-c0", 9.4, "start to update weight, step: 6, epoch: 0")
    job.finish(9.6)
    assert told(job).ranked[:1] == (Cause("w-701", "weights_update", "cpu-contention"),)


CUT = {"send_queue_bytes": [60_000.0] * AFTER, "retransmits_per_s": [8, 4, 0, 4, 0, 0, 4] + [0.0] * 17}
HEALED = {
    "send_queue_bytes": [257.0] * 12,
    "retransmits_per_s": [4.0, 4, 0, 4] + [0.0] * 8,
    "acked_bytes_per_s": [0.0] * 6 + [9e4] + [0.0] * 5,
    "received_bytes_per_s": [0.0] * 6 + [9e4, 9e4] + [0.0] * 4,
}
LOSSY = {
    "send_queue_bytes": [60_000.0, 0, 60_000, 60_000, 0] + [0.0] * 19,
    "retransmits_per_s": [40.0, 20, 12, 4, 16] + [0.0] * 19,
    "acked_bytes_per_s": [9e4, 9e4, 0, 0, 9e4] + [0.0] * 19,
}
LATE = {"rtt_s": [0.001, 0.001, 1.2] + [1.2] * 21, "send_queue_bytes": [14_000.0, 14_000, 0] + [0.0] * 21}
NARROW = {
    "send_queue_bytes": [float(60_000 - 2500 * n) for n in range(AFTER)],
    "acked_bytes_per_s": [10_000.0] * AFTER,
    "rtt_s": [min(3.0, 0.2 * n) for n in range(AFTER)],
}
BURST_THEN_NARROW = {**NARROW, "acked_bytes_per_s": [46_000.0] + [10_000.0] * (AFTER - 1)}
DROPS = {"received_bytes_per_s": [5800.0 if n % 4 == 1 else 0.0 for n in range(AFTER)], "rtt_s": [0.5] * AFTER}
SILENT_DIAL = {"connecting": [0.0] + [1.0] * 23}


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (CUT, "network-partition"),
        (SILENT_DIAL, "network-partition"),
        (HEALED, "network-partition"),
        (LOSSY, "network-loss"),
        (LATE, "network-delay"),
        (NARROW, "network-bandwidth"),
        (BURST_THEN_NARROW, "network-bandwidth"),
        (DROPS, "network-bandwidth"),
    ],
)
def test_a_link_is_judged_by_what_tcp_does(seen: dict[str, list[float]], kind: str) -> None:
    """Cut, lossy, late and narrow links look different to the kernel of whoever sends, and it is the sender who is accused."""
    said = told(link(without_upload(), LINK, **seen))
    assert said.ranked[0] == Cause("w-701", "weights_update", kind)


@pytest.mark.parametrize(("heard_s", "kind"), [(6.1, "network-loss"), (11.5, "network-delay")])
def test_a_request_that_arrived_was_not_cut_off(heard_s: float, kind: str) -> None:
    """The number of a call that was given up is in the callee's log: in time, and its answer was lost, or later: late."""
    job = link(failed(("w-a01", "generate")), EVENT_LINK, **CUT)
    job.say("w-c0", 11.1, "w-a01 generate: Request timeout after 5.0s for http://w-a01:rpc/call request_id=ab12", "ERROR")
    job.say("w-a01", heard_s, "/call 200 in 0.020s request_id=ab12")
    assert told(job).ranked[0].component == "w-c0" and told(job).ranked[0].kind == kind


def test_signs_of_life_are_no_narrow_link() -> None:
    """Small messages that come by themselves, as often before the trouble as in it, are no answer that trickles in."""
    job = failed(("w-a01", "generate"))
    job.gauge("process_state", "w-a01", [])
    state(job, "w-a01", "process_state", [1] * (BEFORE + 1) + [3] * (AFTER - 1))
    beating = {"received_bytes_per_s": [400.0 if n % 2 else 0.0 for n in range(AFTER)]}
    link(job, "w-3e>w-5c:beats", **beating)
    job.gauge("link_received_bytes_per_s", "w-3e>w-5c:beats", [400.0 if n % 2 else 0.0 for n in range(BEFORE)])
    signs = causal.gathered(job, Story(job, WORDS))
    assert not [sign for sign in signs if sign.signal == "link"], signs


def test_a_single_segment_sent_again_is_no_loss() -> None:
    """A busy machine makes a kernel probe once; that is put down to nobody."""
    job = Job(WORDS)
    link(job, LINK, retransmits_per_s=[4.0] + [0.0] * 23, acked_bytes_per_s=[9e5] + [0.0] * 23)
    job.fail(6.5)
    assert told(job).abstain


def test_a_link_of_a_process_that_stands_still_is_well() -> None:
    """What a stopped process leaves unread backs up on its links; it is the process that is accused."""
    job = link(without_upload(), LINK, send_queue_bytes=[60_000.0] * AFTER)
    state(job, "w-3e", "process_state", [1] * BEFORE + [3] * AFTER)
    assert told(job).ranked[0] == Cause("w-3e", "weights_update", "process-pause")


def refused(code: int) -> Job:
    """A worker could not be reached any more: nobody listened, or the connection was reset."""
    job = failed(("w-a01", "generate"))
    job.say(
        "w-c0", 6.15, "Connection error for http://w-a01:rpc/call: connection to w-a01: failed: [Errno 111] refused", "WARNING"
    )
    job.lines["w-5c"] = [line for line in job.lines["w-5c"] if "w-a01" not in line[2]]
    job.say("w-5c", 6.3 if code == -9 else 12.2, f"worker w-a01 (pid w-a01) ended with exit code {code}", "WARNING")
    return job


def test_refused_by_the_dead_and_by_the_way() -> None:
    """Who is refused by a process that lives on until it is told to end was refused on the way: the connection was reset."""
    assert told(refused(-9)).ranked[0] == Cause("w-a01", "reward", "process-kill")
    assert told(refused(-15)).ranked[0] == Cause("w-c0", "rollout", "network-reset")


def test_a_reset_amid_a_call_struck_what_the_worker_was_at() -> None:
    """A connection that was reset while a worker sampled was reset at scoring, the last thing that it had announced."""
    job = failed(("w-a01", "generate"))
    text = "w-a01 generate: Connection lost: Connection aborted: [Errno 104] reset by peer request_id=ab12"
    job.say("w-c0", 6.25, text, "ERROR")
    assert told(job).ranked[0] == Cause("w-c0", "reward", "network-reset")


def test_what_came_late_over_a_link_tells_since_when() -> None:
    """A lossy link on which one message was late already, with idle samples in between: it struck before the message."""
    job = Job(WORDS)
    job.step(6, late={("w-a01", "generate"): 4.0})
    job.lines["w-a01"] = [line for line in job.lines["w-a01"] if not ("rollout_start" in line[2] and line[0] > 6)]
    job.lines["w-c0"] = [line for line in job.lines["w-c0"] if line[0] < 6.2]
    job.say("w-a01", 6.6, "event rollout_start, global_step: 6")
    job.say("w-a01", 6.601, "/event 200 in 0.001s request_id=00ff00ff00ff00ff")
    idle = [0.0] * 4
    link(
        job,
        EVENT_LINK,
        send_queue_bytes=[*idle, 9000.0, 9000, 0, 9000, 9000] + [0.0] * 15,
        retransmits_per_s=[*idle, 20.0, 8, 0, 8, 8] + [0.0] * 15,
        acked_bytes_per_s=[*idle, 0.0, 0, 9e4, 0, 0] + [0.0] * 15,
    )
    job.say("w-c0", 11.7, "w-a01 generate: Request timeout after 5.0s for http://w-a01:rpc/call request_id=ab12", "ERROR")
    job.fail(12.0)
    assert told(job).ranked[0] == Cause("w-c0", "rollout", "network-loss")


def test_a_name_that_does_not_resolve() -> None:
    """The dialler cannot tell where its peer is: the name, and the link from the dialler on, are accused."""
    job = failed(("w-a01", "generate"))
    text = "connection to w-3e: failed: [Errno -2] Name or service not known"
    job.say("w-a01", 6.05, f"Exception: InferenceEngineError: UpdateWeightError: Failed to update weights: {text}", "ERROR")
    assert told(job).ranked[0] == Cause("w-a01", "weights_update", "dns-failure")


def with_checkpoints() -> Job:
    job = failed()
    for step in range(6):
        job.say(
            "w-c0", step + 0.9, f"[Trainer] start save latest_checkpoint recover info, epoch_step: {step}, global_step:{step}"
        )
        job.serve("w-700", "save", step, step + 0.95, 0.02)
    job.say("w-c0", 6.9, "[Trainer] start save latest_checkpoint recover info, epoch_step: 6, global_step:6")
    return job


def test_a_disk_that_is_full_or_slow() -> None:
    """Free bytes and what becomes durable tell a full disk from a slow one; who writes there is accused."""
    full, slow = with_checkpoints(), with_checkpoints()
    for job in (full, slow):
        job.gauge("disk_total_bytes", "recover", [1e8] * (BEFORE + AFTER))
    full.gauge("disk_free_bytes", "recover", [9e7] * 28 + [0] * 20)
    slow.gauge("disk_free_bytes", "recover", [9e7] * (BEFORE + AFTER))
    slow.gauge("disk_fsync_waiting_s", "recover", [0] * 28 + [0.25 * n for n in range(20)])
    assert told(full).ranked[0] == Cause("w-700", "checkpoint", "disk-fill")
    assert told(slow).ranked[0] == Cause("w-700", "checkpoint", "io-contention")


def test_a_disk_that_hangs_is_dated_by_the_first_write_that_waited() -> None:
    """Nobody of the job needed the disk yet: a small write that began as training did shows that it hung from there on."""
    job = with_checkpoints()
    job.lines["w-c0"] = [line for line in job.lines["w-c0"] if "global_step:6" not in line[2]]
    job.say("w-c0", 6.65, "[Trainer] start save latest_checkpoint recover info, epoch_step: 6, global_step:6")
    job.gauge("disk_fsync_s", "recover", [0.002] * 26)
    job.gauge("disk_fsync_waiting_s", "recover", [0] * 27 + [0.2 + 0.25 * n for n in range(21)])
    state(job, "w-700", "process_state", [1] * 28 + [2] * 20)
    assert told(job).ranked[0] == Cause("w-700", "train", "io-contention")


def test_own_words_and_samples_of_a_full_disk_agree_on_the_stage() -> None:
    """A disk that was full between two samples, as training ended and saving began, was full as saving began."""
    job = with_checkpoints()
    job.gauge("disk_total_bytes", "recover", [1e8] * (BEFORE + AFTER))
    job.gauge("disk_free_bytes", "recover", [9e7] * 26 + [0] * 22)
    job.lines["w-c0"] = [line for line in job.lines["w-c0"] if "global_step:6" not in line[2]]
    job.say("w-c0", 6.3, "[Trainer] start save latest_checkpoint recover info, epoch_step: 6, global_step:6")
    job.say("w-700", 6.38, "Exception: TrainEngineError: SaveError: [Errno 28] No space left on device", "ERROR")
    assert told(job).ranked[0] == Cause("w-700", "checkpoint", "disk-fill")


def test_a_file_that_is_damaged() -> None:
    """A file that was written whole and does not read: its writer's file was damaged since, and not by who reads it."""
    job = with_checkpoints()
    text = "UpdateWeightError: Failed to update weights from disk: RuntimeError: PytorchStreamReader failed reading zip archive"
    job.say("w-a00", 6.05, f"Exception: InferenceEngineError: {text}", "ERROR")
    job.say("w-c0", 6.06, f"Exception caught when waiting for future: InferenceEngineError: w-a00: {text}", "ERROR")
    assert told(job).ranked[0] == Cause("w-700", "weights_update", "file-corruption")


def test_of_several_callers_one_is_not_answered() -> None:
    """When one of two gets no answer from a server it is its way there; when neither does it is the server."""
    said = "Exception: FrameworkError: RewardError: reward of step 6: connection to w-4e: Read timed out. (read timeout=5.0)"
    one, both = failed(("w-a00", "generate")), failed(("w-a00", "generate"), ("w-a01", "generate"))
    one.say("w-a00", 11.2, said, "ERROR")
    for who in ("w-a00", "w-a01"):
        both.say(who, 11.2, said, "ERROR")
    assert told(one).ranked[0].component == "w-a00" and told(one).ranked[0].kind == "network-partition"
    assert told(both).ranked[0] == Cause("w-4e", "reward", "process-pause")


def test_decoys_are_nobodys_fault() -> None:
    """A burst of work, long samples, somewhat longer round trips and a slow checkpoint, all without harm: nothing is wrong."""
    job = Job(WORDS)
    job.step(6, late={("w-a01", "generate"): 0.6})
    job.step(7)
    job.gauge("process_state", "w-a00", [1] * 20 + [0] * 12)
    job.gauge("cpu_ratio", "w-a00", [0.1] * 20 + [0.2] * 12)
    link(job, EVENT_LINK, rtt_s=[0.06] * AFTER)
    job.gauge("disk_fsync_s", "recover", [0.01] * 20 + [0.3] * 12)
    job.finish(8.0)
    said = told(job)
    assert not said.fault and not said.abstain, said.reason


def test_a_worker_that_is_late_once_is_nobodys_fault() -> None:
    """A stop that is over before anybody complains, and costs less than a step or a few seconds, harms nobody."""
    job = Job(WORDS)
    job.step(6, late={("w-a01", "generate"): 1.0})
    state(job, "w-a01", "process_state", [1] * BEFORE + [3] * 4 + [1] * 20)
    job.finish(8.5)
    assert not told(job).fault


def test_a_complaint_of_a_busy_machine_is_nobodys_fault() -> None:
    """A message that was answered too late for its caller, in a job that did all its work and with nothing to be seen."""
    job = Job(WORDS)
    job.step(6)
    job.say("w-c0", 6.9, "w-a01 rollout_end: Request timeout after 0.5s for http://w-a01:rpc/event request_id=ab12", "ERROR")
    for name in WORDS.components:
        job.gauge("process_state", name, [1] * 28)
    job.finish(7.2)
    assert not told(job).fault
    job.samples.clear()
    assert told(job).fault


def test_long_samples_are_no_starvation() -> None:
    """Work that takes long because there is more of it uses its core all the while: nobody took it away."""
    job = Job(WORDS)
    job.step(6, late={("w-a01", "generate"): 4.0})
    for name in WORDS.components:
        job.gauge("process_state", name, [1] * BEFORE + [0 if name == "w-a01" else 1] * AFTER)
        job.gauge("cpu_ratio", name, [0.1] * BEFORE + [0.98 if name == "w-a01" else 0.1] * AFTER)
    job.finish(12.0)
    assert not told(job).fault


def test_a_process_that_did_not_heed_the_end() -> None:
    """By logs alone: who had to be killed when all were told to end had been standing still."""
    job = failed(("w-a01", "generate"))
    job.samples.clear()
    job.lines["w-5c"] = [line for line in job.lines["w-5c"] if "w-a01" not in line[2]]
    job.say("w-5c", 13.5, "worker w-a01 (pid w-a01) ended with exit code -9", "WARNING")
    said = told(job)
    assert said.ranked[0] == Cause("w-a01", "reward", "process-pause") and said.alarm > clock(6.0)


def moved(job: Job, by_s: float) -> tuple[Job, Vocabulary, dict[str, str]]:
    """The same job on another day and under other names, which sort the other way round."""
    names = dict(zip(WORDS.components, (f"z-{99 - n}" for n in range(len(WORDS.components))), strict=True))

    def renamed(text: str) -> str:
        for old, new in names.items():
            text = text.replace(old, new)
        return text

    words = Vocabulary(
        "other",
        {names[name]: role for name, role in WORDS.roles.items()},
        tuple((names[src], names[dst], purpose) for src, dst, purpose in WORDS.links),
        waits=tuple((names[waiter], names[awaited]) for waiter, awaited in WORDS.waits),
    )
    other = Job(words, steps=0)
    other.lines = {names[who]: [(at + by_s, level, renamed(text)) for at, level, text in job.lines[who]] for who in names}
    other.samples = {
        metric: [replace(one, subject=renamed(one.subject), time_s=one.time_s + by_s) for one in series]
        for metric, series in job.samples.items()
    }
    return other, words, names


@pytest.mark.parametrize("job", [link(without_upload(), LINK, **CUT), link(without_upload(), LINK, **LATE), refused(-9)])
def test_names_and_dates_tell_nothing(job: Job) -> None:
    """Other names, in another order, and another day: the same answer about the same one."""
    said = told(job)
    other, words, names = moved(job, 86_400.0 * 37)
    again = causal.diagnose(other, words)
    assert again.ranked[0] == replace(said.ranked[0], component=names[said.ranked[0].component])
    assert again.confidence == said.confidence and again.chain == tuple(names[name] for name in said.chain)
