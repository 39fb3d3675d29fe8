"""What a trial says arrives as it was said."""

from __future__ import annotations

from typing import Any

import pytest

from tune.messages import Completed, EpochDone, Failed, Message, Progress, Restarted, StageDone, Usage, decode, encode

MESSAGES: dict[str, Message] = {
    "restarted": Restarted("its process or node died", "match"),
    "progress": Progress("match", 0, 60),
    "waiting": Progress("match", 3, 60, "another process"),
    "epoch": EpochDone("segment", 3, 40, 48.5),
    "milestone": StageDone(
        "masks",
        {"pseudo_miou": 61.25, "holdout/pseudo_miou": 60.5},
        ({"loss": 2.0}, {"loss": 0.1 + 0.2}),
        12.5,
        True,
        60.5,
        25.0,
        12.5,
        0.25,
    ),
    "stage": StageDone("prompts", {}, (), 0.0, False),
    "completed": Completed((60.5, 12.5), {"pseudo_miou": 61.25}, Usage(12.5, 3.25)),
    "failed": Failed("match diverged; lower match.lr"),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    result = encode(message)
    assert {type(value) for value in result.values()} == {str}, "Ray flattens dictionaries"
    assert decode({**result, "training_iteration": 3}) == message


@pytest.mark.parametrize("result", [None, {}, {"training_iteration": 3, "done": True}])
def test_a_result_of_ray_without_a_message_has_none(result: dict[str, Any] | None) -> None:
    assert decode(result) is None
