"""How a policy was prompted in its training is told to whoever prompts it otherwise."""

from __future__ import annotations

import json

import pytest
import support
from transformers import AutoTokenizer

from prmbench.data.prompts import PROMPT_TEMPLATES, find_prompt
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy
from prmbench.policies.prompt_record import (
    MOST_SYSTEMS,
    RECORD_NAME,
    PromptRecord,
    prompt_differences,
    prompt_of_message,
)
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
from prmbench.training.sft.recipe import SFTRecipe
from prmbench.training.sft.run import train_sft


@pytest.fixture
def encoder(tiny):
    return lambda template=None, **options: TraceEncoder(
        AutoTokenizer.from_pretrained(tiny), TokenOptions(**options), template
    )


@pytest.mark.parametrize("name", PROMPT_TEMPLATES)
def test_the_template_of_a_message(name):
    assert prompt_of_message(find_prompt(name).render("What is 1 + 1?")) == name


def test_every_difference_is_a_sentence(encoder, tmp_path):
    PromptRecord.of(encoder(system="Be brief."), ["boxed", "bare"]).write(tmp_path)
    for same in (encoder(system="Be brief."), encoder(system="Be brief.", separator="\n")):
        assert prompt_differences(tmp_path, PromptRecord.of(same, ["bare"])) == []
    other = encoder(support.THINKING_TEMPLATE, template_args={"enable_thinking": False})
    found = prompt_differences(tmp_path, PromptRecord.of(other, ["number"]))
    assert [sentence.split(" with ")[1].rpartition(",")[0] for sentence in found][:3] == [
        'the prompt "bare" or "boxed"',
        'the system message "Be brief."',
        "the template arguments {}",
    ]
    assert "is used with none here" in found[1]
    assert "the chat template" in found[3]
    assert len(found) == 4


def test_data_of_many_system_messages_are_not_compared(encoder, tmp_path):
    PromptRecord.of(encoder(), ["boxed"], map(str, range(MOST_SYSTEMS + 1))).write(tmp_path)
    assert prompt_differences(tmp_path, PromptRecord.of(encoder(system="x"), ["boxed"])) == []
    PromptRecord.of(encoder(), ["boxed"], ["x", None]).write(tmp_path)
    for system in ("x", None):
        assert prompt_differences(tmp_path, PromptRecord.of(encoder(system=system), ["boxed"])) == []


@pytest.mark.parametrize("change", [{"systems": 5}, {"prompts": None}, {"more": 1}, {"template_args": []}])
def test_a_broken_record_is_one_sentence(encoder, tmp_path, change):
    here = PromptRecord.of(encoder(), ["boxed"])
    (tmp_path / RECORD_NAME).write_text(json.dumps(here.model_dump() | change))
    with pytest.raises(UserError, match=rf"{RECORD_NAME}: field '{next(iter(change))}.*mend or delete the file"):
        prompt_differences(tmp_path, here)


@pytest.mark.slow
def test_fine_tuning_says_how_and_the_next_stage_compares(tiny, tmp_path, capsys):
    question = find_prompt("number").render
    chats, outcomes = [], []
    for i in range(8):
        for right in (True, False):
            turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question(f"{i} + 1?")}]
            turns.append({"role": "assistant", "content": str(i + 1 + (not right))})
            chats += [{"messages": turns}] if right else []
            outcomes.append({"messages": turns, "correct": right})
    for name, records in (("chats", chats), ("outcomes", outcomes)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    quick = {"batch_size": 2, "micro_batch_size": 2, "max_steps": 1, "learning_rate": 1e-6}
    sft = SFTRecipe(
        model=str(tiny), data=str(tmp_path / "chats.jsonl"), output=str(tmp_path / "sft"), tokens={}, **quick
    )
    result = train_sft(sft)
    record = json.loads((result.output / RECORD_NAME).read_text())
    assert record["prompts"] == ["number"]
    assert record["systems"] == ["Be brief."]

    # As in its training; and otherwise.
    capsys.readouterr()
    tokens = TokenOptions(system="Be brief.")
    assert load_policy(str(result.output), find_prompt("number"), tokens=tokens).warnings == []
    assert capsys.readouterr().err == ""
    warnings = load_policy(str(result.output), find_prompt("boxed")).warnings
    assert ["the prompt" in warnings[0], "the system message" in warnings[1], len(warnings)] == [True, True, 2]
    assert capsys.readouterr().err.count("warning: ") == 2

    # A reward model that is trained from it says so too, and leaves no record of another policy in its folder.
    rollouts = tmp_path / "rollouts.jsonl"
    rows = [
        {"id": f"p{i}", "sample": k, "problem": f"{i}?", "answer": "1", "completion": text, "ids": ids,
         "finish_reason": "stop", "verdict": verdict}
        for i in range(4)
        for k, (text, ids, verdict) in enumerate(_answers(tiny))
    ]  # fmt: skip
    rollouts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "rm"
    output.mkdir()
    (output / RECORD_NAME).write_text("{}")
    said = []
    train_rm(
        RMRecipe(objective="dpo", model=str(result.output), data=str(rollouts), output=str(output), **quick),
        log=said.append,
    )
    assert [line for line in said if "was trained with the prompt" in line]
    assert not (output / RECORD_NAME).exists()


def _answers(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    for text, verdict in (("It is 1.", "correct"), ("It is 2.", "wrong")):
        yield text, tokenizer(text + "<|end|>", add_special_tokens=False)["input_ids"], verdict
