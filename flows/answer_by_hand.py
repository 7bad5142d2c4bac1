"""Flow `answer-by-hand`: a person reads a sealed case in Prefect's pages and answers in a form; the flow waits for it."""

from __future__ import annotations

import time
from typing import Any, Literal

from prefect import flow
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import create_model

from storage.layout import run_paths
from tasks import steps
from tasks.person import BUDGET_S

#: Metrics want questions, which a page cannot answer: those tiers are for the terminal.
TIERS = ("T0", "T1")
POLL_S = 5
WORDS = """Read the artifacts of this flow run: one page a log. Component, stage and kind are of the **root**, not of where the
error came out; they count only where something is wrong. You have {minutes:.0f} minutes."""


@flow(name="answer-by-hand", flow_run_name="answer-by-hand", persist_result=True, result_serializer="json")
def answer_by_hand(run_id: str, person: str, years: int, tier: str = "T1", poll_s: int = POLL_S) -> dict[str, Any]:
    """Show a sealed run's logs to a person, wait for the form, keep the answer. Whoever agrees to that starts it."""
    if tier not in TIERS:
        raise ValueError(f"tier {tier!r} is not for pages; there are {', '.join(TIERS)}")
    case = steps.open_by_hand(run_paths(run_id), person, {"consent": True, "years": years}, tier)
    begun, answer, reason = time.monotonic(), None, ""
    told = steps.show_case(case)
    form = form_of(told["vocabulary"]).with_initial_data(description=WORDS.format(minutes=BUDGET_S / 60))
    try:
        answer = answer_of_form(pause_flow_run(wait_for_input=form, timeout=int(BUDGET_S), poll_interval=poll_s))
    except FlowPauseTimeout:
        reason = "left without an answer"
    kept = steps.close_by_hand(case, answer, reason, time.monotonic() - begun)
    return {"run_id": run_id, "diagnoser": kept["diagnoser"], "status": kept["status"]}


def form_of(words: dict[str, list[str]]) -> type[RunInput]:
    """The form: every word is chosen from the case's closed vocabularies."""
    kinds = {name: (Literal[tuple(words[f"{name}s"])], ...) for name in ("component", "stage", "kind")}
    wrong = (Literal["yes", "no", "cannot tell"], ...)
    fields: dict[str, Any] = {"something_is_wrong": wrong, **kinds, "sure_percent": (int, 50), "reason": (str, "")}
    return create_model("Answer", __base__=RunInput, **fields)


def answer_of_form(form: Any) -> dict[str, Any]:
    """An answer as every diagnoser gives it."""
    if form.something_is_wrong != "yes":
        return {"fault": False, "ranked": [], "abstain": form.something_is_wrong == "cannot tell", "reason": form.reason}
    cause = {"component": form.component, "stage": form.stage, "kind": form.kind}
    confidence = min(max(form.sure_percent, 0), 100) / 100
    return {"fault": True, "ranked": [cause], "confidence": confidence, "reason": form.reason}
