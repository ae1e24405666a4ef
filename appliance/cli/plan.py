"""How an answer of /hearth/v1/plan reads: the engine, the reasons, the arithmetic."""

from appliance.cli.client import Json
from appliance.cli.table import render_table

MIB = 1024 * 1024


def plan_screen(body: Json) -> str:
    """Sections like those of `show`; sizes in MiB, so that they can be added up."""
    facts = [
        ["", "model", body["model"]],
        ["", "engine", body["engine"]],
        ["", "context length", str(body["context_length"])],
        ["", "loaded", "yes" if body["loaded"] else "no"],
    ]
    reasons = "".join(f"    {reason}\n" for reason in body["reasons"])
    verdict = body["refusal"] or _verdict(body)
    return (
        f"  Choice\n{render_table(facts)}\n"
        f"  Why\n{reasons}\n"
        f"  Memory\n{render_table(_sum_rows(body))}\n"
        f"  {verdict}\n"
    )


def _sum_rows(body: Json) -> list[list[str]]:
    need, memory = body["need"], body["memory"]
    numbers = [
        ("weights", need["weights"]),
        ("+ KV cache", need["kv_cache"]),
        ("+ compute", need["compute"]),
        ("+ process", need["process"]),
        ("= needed", need["total"]),
        ("of it in main memory", need["of_main_memory"]),
        ("available", memory["available"]),
        ("kept free of it", memory["kept_free"]),
    ]
    width = max(len(_mib(count)) for _, count in numbers)
    return [["", name, _mib(count).rjust(width)] for name, count in numbers]


def _verdict(body: Json) -> str:
    if not body["unloads"]:
        return "It fits."
    return f"It fits when these idle models leave: {', '.join(body['unloads'])}."


def _mib(count: int) -> str:
    return f"{count / MIB:.0f} MiB"
