"""Tokenizers: the file is what counts, whatever class its config names, and what is saved gives the same ids to others."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import sentencepiece
import support
import zoo
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, LlamaConfig, Phi3Config, Qwen2Config

import prmbench
from prmbench.data.tokens import TraceEncoder
from prmbench.engines.load import LoadOptions
from prmbench.engines.tokenizer import PROBE, load_tokenizer, save_tokenizer, token_ids
from prmbench.errors import UserError

OPTIONS = LoadOptions()
TEXTS = (
    "Tom has 3 apples, buys 14 more; it's 3*14 = 42.\n\nSo  x\ty",
    " lead and trail ",
    "Ответ: 答案 ① ﬁ e\u0301 \U0001f600",
    "<|user|>What is 1234?<|end|>\n<|assistant|> 1234 .\n",
    "a <s> b",
)


def test_no_tokenizer(tiny, tmp_path):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(copy, OPTIONS)


@pytest.mark.parametrize("kind", list(zoo.TOKENIZERS))
def test_ids_are_those_of_the_file_whatever_class_is_named(kind, tmp_path):
    own = zoo.TOKENIZERS[kind]()
    rebuilt = 0
    for number, name in enumerate(zoo.CLASSES):
        folder = zoo.save_tokenizer(tmp_path / str(number), own, name)
        LlamaConfig().save_pretrained(folder)
        loaded = load_tokenizer(folder, OPTIONS)
        encoder = TraceEncoder(loaded)
        # Written beside a model, and read by others.
        output = tmp_path / f"{number}-saved"
        LlamaConfig().save_pretrained(output)
        save_tokenizer(loaded, output)
        others = AutoTokenizer.from_pretrained(output)
        for text in TEXTS:
            ids = own.encode(text, add_special_tokens=False).ids
            assert encoder.text_ids(text).tolist() == ids, (name, text)
            assert loaded.decode(ids) == own.decode(ids, skip_special_tokens=False), (name, text)
            assert others(text, add_special_tokens=False)["input_ids"] == ids, (name, text)
        assert (loaded.bos_token, loaded.eos_token) == ("<s>", "<|end|>")
        assert loaded.chat_template == support.TEMPLATE
        rebuilt += loaded.origin != "tokenizer.json"
    assert rebuilt >= 5  # classes that transformers makes another tokenizer of


@pytest.mark.parametrize("config", [Qwen2Config, Phi3Config])
def test_beside_configs_that_transformers_has_a_tokenizer_for(config, tmp_path):
    own = zoo.TOKENIZERS["llama 2"]()
    for name in ("LlamaTokenizerFast", "PreTrainedTokenizerFast"):
        folder, output = zoo.save_tokenizer(tmp_path / name, own, name), tmp_path / f"{name}-saved"
        config().save_pretrained(folder)
        config().save_pretrained(output)
        loaded = load_tokenizer(folder, OPTIONS)
        save_tokenizer(loaded, output)
        for text in TEXTS:
            ids = own.encode(text, add_special_tokens=False).ids
            assert TraceEncoder(loaded).text_ids(text).tolist() == ids
            assert TraceEncoder(load_tokenizer(output, OPTIONS)).text_ids(text).tolist() == ids
            assert Tokenizer.from_file(str(output / "tokenizer.json")).encode(text, add_special_tokens=False).ids == ids


def test_the_entry_says_where_ids_come_from(tmp_path, tiny):
    folder = shutil.copytree(tiny, tmp_path / "m")
    data = support.write_traces(tmp_path / "traces.jsonl", 2)
    found = []
    for name in ("PreTrainedTokenizerFast", "LlamaTokenizerFast"):
        support.change_json(folder / "tokenizer_config.json", tokenizer_class=name)
        entry, _ = prmbench.evaluate(folder, kind="endo", data=data, output=tmp_path / name, n_resamples=10)
        found.append((entry.provenance.token_options["tokenizer"], entry.provenance.run.tokens))
    assert found[0] == ("tokenizer.json", found[1][1])
    assert found[1][0] == "tokenizer.json, of which transformers makes LlamaTokenizer"


def test_special_tokens_that_only_the_class_names_are_kept(tmp_path):
    folder = zoo.save_tokenizer(tmp_path, zoo.TOKENIZERS["llama 3"](), "LlamaTokenizerFast")
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    del fields["bos_token"], fields["unk_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    LlamaConfig().save_pretrained(folder)
    assert load_tokenizer(folder, OPTIONS).bos_token == "<s>"


def test_tokens_that_the_config_alone_adds(tmp_path):
    own = zoo.TOKENIZERS["gpt2"]()
    size = own.get_vocab_size()
    added = {str(size): {"content": "<extra>", "lstrip": True, "special": True}, str(size + 1): {"content": "[PAD]"}}
    folder = zoo.save_tokenizer(
        tmp_path / "m", own, "LlamaTokenizerFast", added_tokens_decoder=added, pad_token="[PAD]"
    )
    LlamaConfig().save_pretrained(folder)
    loaded = load_tokenizer(folder, OPTIONS)
    assert TraceEncoder(loaded).text_ids("3 <extra>[PAD]").tolist()[-2:] == [size, size + 1]
    assert token_ids(loaded).tolist() == list(range(size + 2))
    own.add_tokens([AddedToken("<extra>", lstrip=True, special=True), AddedToken("[PAD]")])
    ids = own.encode("3 <extra>[PAD] 4", add_special_tokens=False).ids
    assert TraceEncoder(loaded).text_ids("3 <extra>[PAD] 4").tolist() == ids


def test_a_token_that_the_config_gives_a_taken_id_goes_to_the_end(tmp_path):
    """As transformers itself has it."""
    added = {"3": {"content": "<extra>", "special": True}}
    folder = zoo.save_tokenizer(tmp_path, zoo.TOKENIZERS["gpt2"](), "LlamaTokenizerFast", added_tokens_decoder=added)
    LlamaConfig().save_pretrained(folder)
    loaded = load_tokenizer(folder, OPTIONS)
    assert loaded.convert_tokens_to_ids("<extra>") == len(loaded) - 1


def test_a_broken_file_is_one_sentence(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match=r"tokenizer.json: cannot be read .*; download it again"):
        load_tokenizer(folder, OPTIONS)


def test_what_is_sampled_is_what_is_read(tmp_path):
    """No space is tidied away before punctuation."""
    own = zoo.TOKENIZERS["t5"]()
    folder = zoo.save_tokenizer(tmp_path, own, clean_up_tokenization_spaces=True)
    loaded = load_tokenizer(folder, OPTIONS)
    assert loaded.decode(own.encode("it is 4 . So 7 ,").ids) == "it is 4 . So 7 ,"


def test_the_chat_template_of_a_processor(tmp_path):
    folder = zoo.save_tokenizer(tmp_path, zoo.TOKENIZERS["gpt2"](), chat_template=None)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": support.TEMPLATE}))
    assert TraceEncoder(load_tokenizer(folder, OPTIONS)).chat_template == support.TEMPLATE


# --- SentencePiece without tokenizer.json ---


def sentencepiece_model(folder, **options):
    settings = {"model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "hard_vocab_limit": False}
    settings |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "minloglevel": 2}
    settings |= {"user_defined_symbols": ["<|user|>", "<|assistant|>", "<|end|>"], **options}
    model = io.BytesIO()
    lines = (line for text in support.CORPUS * 8 for line in text.split("\n") if line)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **settings)
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.mark.parametrize(
    ("name", "options", "works"),
    [
        ("GemmaTokenizer", {"add_dummy_prefix": False}, True),
        (None, {"add_dummy_prefix": False}, True),
        ("LlamaTokenizer", {}, False),  # transformers 5 leaves out the space that is put before " lead"
        ("LlamaTokenizer", {"add_dummy_prefix": False}, False),
        ("CodeLlamaTokenizerFast", {"normalization_rule_name": "nfkc"}, False),
        ("LlamaTokenizerFast", {"model_type": "unigram", "vocab_size": 330}, False),
    ],
)
def test_sentencepiece_alone_gives_its_ids_or_is_refused(name, options, works, tmp_path):
    processor = sentencepiece_model(tmp_path / "m", **options)
    fields = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": support.TEMPLATE}
    (tmp_path / "m" / "tokenizer_config.json").write_text(
        json.dumps(fields | ({"tokenizer_class": name} if name else {}))
    )
    LlamaConfig().save_pretrained(tmp_path / "m")
    if not works:
        with pytest.raises(
            UserError, match=r"other ids for .* than SentencePiece, so scores would be wrong; save a tok"
        ):
            load_tokenizer(tmp_path / "m", OPTIONS)
        return
    loaded = load_tokenizer(tmp_path / "m", OPTIONS)
    for text in (*PROBE, TEXTS[1]):
        assert TraceEncoder(loaded).text_ids(text).tolist() == processor.encode(text)
    assert loaded.origin.startswith("files that ")
    (tmp_path / "out").mkdir()
    LlamaConfig().save_pretrained(tmp_path / "out")
    save_tokenizer(loaded, tmp_path / "out")
    saved = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert saved.encode(TEXTS[0], add_special_tokens=False).ids == processor.encode(TEXTS[0])


def test_a_model_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the tokenizer cannot be loaded|cannot be checked"):
        load_tokenizer(tmp_path, OPTIONS)
