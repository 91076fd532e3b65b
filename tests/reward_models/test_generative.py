"""Critics and judges against a plain computation: one prompt at a time, through transformers' own generate and full logits."""

from __future__ import annotations

import numpy as np
import pytest
import support_prm
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from prmbench.data.critic_prompt import critic_prompt
from prmbench.engines.hf.engine import states_at
from prmbench.errors import UserError
from prmbench.reward_models.generation import write
from prmbench.reward_models.judge import VERDICT, JudgeRewardModel, judge_prompt, mean_log_odds
from prmbench.reward_models.loading import load_reward_model
from prmbench.verify.extract import parse_verdict

PROBLEM, STEPS = "What is 2 + 3 + 4?", ["2 + 3 = 5.", "5 + 4 = 9, so \\boxed{9}.", "Done."]


@pytest.fixture(scope="module")
def language_model(smollm2, tmp_path_factory):
    return support_prm.save_causal(tmp_path_factory.mktemp("lm") / "lm", support_prm.smol_tokenizer(smollm2), "qwen2")


@pytest.fixture(scope="module")
def smol(language_model):
    """The checkpoint's tokenizer as its file says; transformers would have it split as Qwen's does, beside a Qwen config."""
    return PreTrainedTokenizerFast.from_pretrained(language_model)


def rendered(tokenizer, message):
    chat = [{"role": "user", "content": message}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def greedy(folder, ids, n, stop):
    """What transformers samples itself, in float64; without the token that ended it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    prompt = torch.tensor([ids])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=sorted(stop),
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    return out[:-1] if out and out[-1] in stop else out


class Scripted:
    """An engine that writes what it is told: what a model says is not what is tested here."""

    name = "hf"
    vocabulary, max_length, source = 10**6, None, "scripted"

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts = tokenizer, texts

    def eos_ids(self):
        return []

    def facts(self):
        return {}

    def generate(self, requests, stop, params, seed):
        from prmbench.engines.sampling import Completion

        out = []
        for request in requests:
            prompt = self.tokenizer.decode(request.prompt)
            text = next(t[request.sample] for problem, t in self.texts.items() if problem in prompt)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            out.append(Completion(np.array([*ids, sorted(stop)[0]], dtype=np.int64), "stop"))
        return out


def test_critic_writes_what_greedy_decoding_writes(language_model, smol):
    """Prompt, stop and cut: the texts themselves, which here hold no verdict."""
    model = load_reward_model(language_model, preset="processbench-critic", generation={"max_new_tokens": 12})
    traces = [model.encode(PROBLEM, STEPS), model.encode("Short?", ["One."])]
    assert traces[0].ids.tolist() == rendered(smol, critic_prompt(PROBLEM, STEPS))
    texts = write(model.model, [t.ids for t in traces], [t.room for t in traces], model.stop, model.generation, 0)
    for trace, text in zip(traces, texts, strict=True):
        assert text.tolist() == greedy(language_model, trace.ids.tolist(), 12, model.stop)
    found = model.score(traces)
    assert [one.votes for one in found] == [(parse_verdict(smol.decode(t)),) for t in texts]
    assert found[0].n_tokens.tolist() == [len(smol(s, add_special_tokens=False)["input_ids"]) for s in STEPS]


def test_critic_counts_votes(language_model, smol):
    model = load_reward_model(language_model, preset="processbench-critic-maj8", generation={"n": 3})
    model.model = Scripted(
        smol, {"Prob A": ["\\boxed{1}", "no verdict", "so \\boxed{1}."], "Prob B": ["?", "", "\\boxed{x}"]}
    )
    found = model.score([model.encode("Prob A", STEPS), model.encode("Prob B", ["One."])])
    assert [one.votes for one in found] == [(1, None, 1), (None, None, None)]
    assert found[0].scores is None


@pytest.mark.slow
def test_samples_depend_on_the_trace_and_the_seed_alone(language_model):
    def texts(seed, order):
        model = load_reward_model(
            language_model, kind="critic", generation={"n": 2, "temperature": 1.0, "max_new_tokens": 8, "seed": seed}
        )
        traces = {name: model.encode(name, STEPS) for name in ("A", "Bbb bbb", "C")}
        prompts, rooms = [traces[n].ids for n in order], [traces[n].room for n in order]
        both = [write(model.model, prompts, rooms, model.stop, model.generation, k) for k in (0, 1)]
        return {name: tuple(tuple(one[i].tolist()) for one in both) for i, name in enumerate(order)}

    first = texts(0, ["A", "Bbb bbb", "C"])
    assert texts(0, ["C", "A"]).items() <= first.items()
    assert texts(1, ["A"])["A"] != first["A"]
    assert first["A"][0] != first["A"][1]


def test_a_verdict_is_cut_where_the_positions_end(smol, tmp_path):
    folder = support_prm.save_causal(tmp_path / "m", smol, "qwen2", max_position_embeddings=400)
    model = load_reward_model(folder, kind="critic", generation={"max_new_tokens": 300})
    short, long = model.encode("S?", ["One."]), model.encode("Long? " * 40, STEPS)
    assert 400 - len(long.ids) < 400 - len(short.ids) < 300
    assert (len(short), len(long)) == (400, 400)
    assert len(model.encode("Long? " * 400, STEPS)) > 400  # which is refused as too long
    model.stop = frozenset({10**6})  # nothing ends a text but its room
    together = write(model.model, [short.ids, long.ids], [short.room, long.room], model.stop, model.generation, 0)
    assert [len(text) for text in together] == [short.room, long.room]
    for trace, text in zip((short, long), together, strict=True):
        (alone,) = write(model.model, [trace.ids], [trace.room], model.stop, model.generation, 0)
        assert alone.tolist() == text.tolist()


@pytest.mark.parametrize("n", [0, 1])
def test_judge_equals_a_plain_loop(language_model, smol, n):
    generation = {"n": n, "temperature": 0.0, "max_new_tokens": 6}
    model = load_reward_model(language_model, kind="judge", generation=generation)
    whole = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float64)
    yes, no = (smol(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    expected = []
    for k in range(1, len(STEPS) + 1):
        ids = rendered(smol, judge_prompt(PROBLEM, STEPS[:k]))
        if n:
            ids = [*ids, *greedy(language_model, ids, 6, model.stop)]
        ids = [*ids, *smol(("\n\n" if n else "") + VERDICT, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            right, wrong = whole(input_ids=torch.tensor([ids])).logits[0, -1, [yes, no]].double().log_softmax(-1)
        expected.append(float(right - wrong))
    found = model.score([model.encode("Short?", ["One."]), model.encode(PROBLEM, STEPS)])[1]
    assert found.scores == pytest.approx(expected, abs=1e-4)
    assert model.fixed_thresholds() == {"step": 0.0}


def test_a_judges_score_is_the_log_odds_of_its_mean_probability(language_model, smol):
    generation = {"n": 3, "temperature": 1.0, "max_new_tokens": 5}
    model = load_reward_model(language_model, kind="judge", generation=generation)
    trace = model.encode(PROBLEM, STEPS)
    found = model.score([trace])[0].scores
    verdict = smol("\n\n" + VERDICT, add_special_tokens=False)["input_ids"]
    yes, no = model.pair
    for step, prompt in enumerate(trace.prompts):
        means, texts = [], set()
        for k in range(3):
            (text,) = write(model.model, [prompt], [trace.rooms[step]], model.stop, model.generation, k)
            texts.add(tuple(text.tolist()))
            with torch.no_grad():
                logits = model.model.model(torch.tensor([[*prompt, *text, *verdict]])).logits[0, -1, [yes, no]].double()
            means.append(float(logits.softmax(-1)[0]))
        assert len(texts) > 1
        assert found[step] == pytest.approx(np.log(np.mean(means) / (1 - np.mean(means))), abs=1e-4)


def test_judge_halves_its_batches_where_memory_runs_out(language_model, monkeypatch):
    model = load_reward_model(language_model, kind="judge")
    trace = model.encode(PROBLEM, STEPS)
    whole = model.score([trace])[0].scores
    sizes = []

    def small(trunk, device, sequences, positions):
        sizes.append(len(sequences))
        if len(sequences) > 1:
            raise torch.OutOfMemoryError("no room")
        return states_at(trunk, device, sequences, positions)

    monkeypatch.setattr("prmbench.reward_models.judge.states_at", small)
    assert model.score([trace])[0].scores == pytest.approx(whole, abs=1e-4)
    assert max(sizes) > 1


class NextLogprobs:
    """An engine that gives log-probs of the next token, as vLLM does, one sequence at a time."""

    name = "vllm"

    def __init__(self, engine):
        self.engine, self.asked = engine, []
        self.vocabulary, self.max_length = engine.vocabulary, engine.max_length
        self.facts, self.eos_ids, self.device_and_dtype = engine.facts, engine.eos_ids, engine.device_and_dtype

    def generate(self, *arguments):
        return self.engine.generate(*arguments)

    def next_logprobs_after(self, sequences, tokens):
        self.asked.append(len(sequences))
        with torch.no_grad():
            rows = [self.engine.model(torch.tensor(ids)[None]).logits[0, -1].log_softmax(-1) for ids in sequences]
        return torch.stack(rows)[:, tokens].double().numpy()


@pytest.mark.parametrize("n", [0, 1])
def test_a_judge_by_log_probs_of_the_next_token(language_model, n):
    """All steps of all traces are asked for at once, and come back to their traces."""
    generation = {"n": n, "temperature": 0.0, "max_new_tokens": 6}
    model = load_reward_model(language_model, kind="judge", generation=generation)
    other = JudgeRewardModel(NextLogprobs(model.model), model.encoder, model.card)
    traces = [model.encode(PROBLEM, STEPS), model.encode("Short?", ["One."]), model.encode("Two?", STEPS[:2])]
    for ours, theirs in zip(other.score(traces), model.score(traces), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)
        assert ours.n_tokens.tolist() == theirs.n_tokens.tolist()
    assert other.model.asked == [6]
    assert other.max_length == model.max_length - 1  # vLLM keeps one position free


def test_judge_prompt_keeps_what_the_texts_hold():
    text = judge_prompt("Is {steps} {number}?", ["{problem} one", "two {x}"])
    assert "Is {steps} {number}?" in text
    assert "<step_1>\n{problem} one\n</step_1>\n\n<step_2>\ntwo {x}\n</step_2>" in text
    assert "Check step 2, the last one" in text


@given(st.lists(st.floats(-15, 15), min_size=1, max_size=8))
def test_mean_log_odds_is_the_mean_of_probabilities(log_odds):
    p = np.mean([1 / (1 + np.exp(-z)) for z in log_odds])
    assert mean_log_odds(np.array(log_odds)) == pytest.approx(np.log(p / (1 - p)), rel=1e-6, abs=1e-6)


def test_mean_log_odds_hand_worked():
    assert mean_log_odds(np.array([np.log(3), -np.log(3)])) == pytest.approx(0)  # (3/4 + 1/4) / 2
    assert mean_log_odds(np.array([100.0])) == pytest.approx(100)  # where a float64 probability is 1


def test_mistakes(language_model):
    with pytest.raises(UserError, match="a critic needs at least one vote"):
        load_reward_model(language_model, kind="critic", generation={"n": 0})
    with pytest.raises(UserError, match=r"pair: 'not right' is 2 tokens"):
        load_reward_model(language_model, kind="judge", pair=["not right", "No"])
    with pytest.raises(UserError, match="`reference=.*`: critic scores with one model alone"):
        load_reward_model(language_model, kind="critic", reference=language_model)
