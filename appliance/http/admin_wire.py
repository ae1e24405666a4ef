"""Answers of our own routes: from domain values to dictionaries; sizes are bytes."""

from datetime import UTC, datetime
from typing import Any

from appliance import last_update
from appliance.errors import LibraryError
from appliance.models.planner import Plan
from appliance.trust.gate import Gate
from appliance.trust.repositories import Repositories


def plan_answer(model: str, plan: Plan, why_template: str) -> dict[str, Any]:
    """GET /hearth/v1/plan; why_template: how the template for its prompts was chosen."""
    need, memory = plan.need, plan.memory
    return {
        "model": model,
        "engine": plan.engine,
        "reasons": [*plan.reasons, why_template],
        "context_length": plan.context_length,
        "need": {
            "weights": need.weight_bytes,
            "kv_cache": need.kv_bytes,
            "compute": need.compute_bytes,
            "process": need.process_bytes,
            "total": need.total_bytes,
            "of_main_memory": need.host_bytes,
        },
        "memory": {
            "total": memory.total,
            "available": memory.available,  # what a loaded one of this name holds included
            "kept_free": plan.reserve_bytes,
        },
        "loaded": plan.is_loaded,
        "fits": not plan.refusal,
        "refusal": plan.refusal or None,
        "unloads": list(plan.leaving),
    }


def trust_answer(gate: Gate, repositories: Repositories) -> dict[str, Any]:
    """The part of /hearth/v1/status about what may come in. Blocking; damage makes it say less."""
    try:
        enrolled = repositories.all()
        return {
            "mode": str(gate.mode()),
            "repositories": [
                {"name": each.name, "freshness": str(repositories.freshness(each.name))}
                for each in enrolled
            ],
        }
    except LibraryError:
        return {"mode": "unknown", "repositories": []}


def update_answer() -> dict[str, Any] | None:
    """The last update of Hearth itself; None where the installer did none. Blocking."""
    done = last_update.read(last_update.home_of_releases())
    if done is None:
        return None
    return {
        "at": datetime.fromtimestamp(done.at_s, UTC).isoformat().replace("+00:00", "Z"),
        "from": done.old or None,
        "to": done.new,
        "result": done.result,
        "reason": done.reason or None,
    }
