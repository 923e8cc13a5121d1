"""The hub's folders of the models that recipes and docs name start as they are, and compute what their authors' do."""

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hive.config import LanguageConfig, VisionConfig
from hive.data.images import fit
from hive.data.text import load_tokenizer
from hive.errors import UserError
from hive.model.families import image_spec
from hive.model.language import LanguageModel
from hive.model.pretrained import language_settings, load_language, load_vision, vision_settings
from hive.model.vision import VisionTower
from hive.recipes import CLIP_L_336, LLAMA_1B, MOBILELLM_350M, SIGLIP_L_384, SMOLLM2_135M
from hive.train.setup import check_vocabulary
from tests.support.hub_layouts import (
    LANGUAGES,
    LLAMA_3_2_1B,
    QWEN2_0_5B,
    TOKENS,
    TOWERS,
    mobilellm,
)
from tests.support.pairs_on_the_spot import encoded
from tests.support.tiny_models import tiny_batch

MOBILELLM = LANGUAGES["MobileLLM-350M"]
CAPTIONS = ["a red disc", "Two cafés, 日本 and a 🙂 cost 12.50", "<s> is </s> text, so is <unk>", "x" * 40]


@torch.no_grad()
def random_weights(model: Any) -> Any:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.1).add_("norm" in name)
    return model


def as_llama(config: dict) -> LlamaForCausalLM:
    """MobileLLM's modules: a Llama's, whose head is not used."""
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=config["vocab_size"], hidden_size=config["hidden_size"], rms_norm_eps=1e-5,
                    intermediate_size=config["intermediate_size"], num_hidden_layers=config["num_hidden_layers"],
                    num_attention_heads=config["num_attention_heads"], tie_word_embeddings=True,
                    num_key_value_heads=config["num_key_value_heads"])
    )  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGES)
@torch.no_grad()
def test_a_language_model_computes_what_its_authors_do(name: str, tmp_path: Path) -> None:
    layout, batch = LANGUAGES[name], tiny_batch((7, 1, 12, 4))
    layout.write(tmp_path)
    if name.startswith("MobileLLM"):
        written = as_llama(layout.config)
    else:
        written = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    layout.write_weights(tmp_path, random_weights(written))
    texts = batch.tokens.split(batch.cu_seqlens.diff().tolist())
    if name.startswith("MobileLLM"):
        state = {key: value.float() for key, value in torch.load(tmp_path / "pytorch_model.bin").items()}
        assert "lm_head.weight" not in state
        written.load_state_dict(state, strict=False)
        embedding = state["model.embed_tokens.weight"]
        expected = torch.cat([written.model(text[None]).last_hidden_state[0] @ embedding.T for text in texts])
    else:
        stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        expected = torch.cat([stock(text[None]).logits[0] for text in texts])
    loaded = load_language(str(tmp_path))
    assert loaded.dtype == torch.float32
    language = LanguageModel(loaded, "torch")
    actual = language.logits(language(language.embed(batch.tokens), batch))
    assert actual.std() > 0.1
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_tokenizer_encodes_as_its_own_library_does(name: str, tmp_path: Path) -> None:
    layout = LANGUAGES[name]
    layout.write(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    for caption in CAPTIONS:
        if name.startswith("MobileLLM"):
            pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
            expected = [1, *pieces.encode(caption + "\n")]
            assert pieces.id_to_piece([0, 1, 2]) == ["<unk>", "<s>", "</s>"]
        else:
            own = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
            own.encode_special_tokens = True
            expected = [layout.config["bos_token_id"], *own.encode(caption + "\n", add_special_tokens=False).ids]
        assert tokenizer.encode(caption, 1000) == expected
    assert tokenizer.vocab_size <= layout.config["vocab_size"]


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_a_tower_computes_what_the_whole_model_does(name: str, tmp_path: Path) -> None:
    layout = TOWERS[name]
    layout.write(tmp_path)
    layout.write_weights(tmp_path)
    whole: Any = layout.kind
    model = whole.from_pretrained(tmp_path).eval()
    tower = VisionTower(load_vision(str(tmp_path)), (1, 3))
    side = layout.config["vision_config"]["image_size"]
    image = Image.open(io.BytesIO(encoded(0, size=(side, side))))
    pixels = fit(image, tower.spec)[None]
    mean, std = (torch.tensor(layout.processor[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    prepared = (pixels / 255 - mean) / std
    torch.testing.assert_close(tower.normalise(pixels), prepared, atol=1e-5, rtol=1e-5)
    states = model.vision_model(pixel_values=prepared, output_hidden_states=True).hidden_states
    actual = tower(pixels)
    assert actual.shape[2] == tower.patches == TOKENS[name]
    torch.testing.assert_close(
        actual, torch.stack([states[k][:, -TOKENS[name] :] for k in (1, 3)]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "sizes", "recipe"),
    [
        ("MobileLLM-350M", (960, 2560, 32, 15, 5, 64, 32000), MOBILELLM_350M),
        ("Llama-3.2-1B-Instruct", (2048, 8192, 16, 32, 8, 64, 128256), LLAMA_1B),
        ("SmolLM2-135M", (576, 1536, 30, 9, 3, 64, 49152), SMOLLM2_135M),
    ],
)
def test_the_published_sizes_are_the_recipes(name: str, sizes: tuple, recipe: LanguageConfig, tmp_path: Path) -> None:
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "head_dim", "vocab_size")  # fmt: skip
    LANGUAGES[name].write(tmp_path, **dict(zip(fields, sizes, strict=True)))
    family, settings = language_settings(str(tmp_path))
    assert family.described(LanguageConfig(weights=recipe.weights), settings) == recipe


@pytest.mark.parametrize(("name", "recipe"), [("CLIP-L/14-336", CLIP_L_336), ("SigLIP-L/16-384", SIGLIP_L_384)])
def test_the_published_tower_is_the_recipes(name: str, recipe: VisionConfig, tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    TOWERS[name].write(tmp_path, vision=sizes, vision_config_dict=None)
    family, settings = vision_settings(str(tmp_path))
    shape = family.described(VisionConfig(weights=recipe.weights, selection=recipe.selection), settings)
    assert shape == recipe


# Old files hold buffers, and a file of PyTorch's holds a tied weight twice.
@pytest.mark.parametrize(
    "extra", [{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, {"lm_head.weight": None}]
)
def test_weights_that_only_repeat_are_read(extra: dict, tmp_path: Path) -> None:
    MOBILELLM.write(tmp_path)
    model = random_weights(as_llama(MOBILELLM.config)).half()
    state = model.state_dict() | {
        name: model.lm_head.weight if value is None else value for name, value in extra.items()
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    loaded = load_language(str(tmp_path))
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.model.norm.weight, model.model.norm.weight.float())


@pytest.mark.parametrize(
    ("layout", "changes", "words"),
    [
        (MOBILELLM, {"layer_sharing": True}, "says that layer_sharing is True, which the engine does not compute"),
        (MOBILELLM, {"share_embedding": None}, "lacks share_embedding"),
        (MOBILELLM, {"num_key_value_heads": None}, "lacks num_key_value_heads"),
        (MOBILELLM, {"attention_bias": True}, "attention_bias is True, but the engine computes False alone"),
        (MOBILELLM, {"mlp_bias": True}, "mlp_bias is True, but the engine computes False alone"),
        (MOBILELLM, {"hidden_act": "gelu"}, "hidden_act is gelu, but the engine computes silu alone"),
        (MOBILELLM, {"attention_dropout": 0.1}, "attention_dropout is 0.1, but the engine computes 0.0 alone"),
        (MOBILELLM, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_parameters is {.*'linear'"),
        (MOBILELLM, {"head_dim": 16}, "head_dim is 16, but the engine computes 8 alone"),
        (MOBILELLM, {"num_key_value_heads": 4}, "a multiple of --language.kv-heads"),
        (MOBILELLM, {"hidden_size": 121}, r"can't be used \(The hidden size \(121\) is not a multiple"),
        (MOBILELLM, {"hidden_size": "120"}, "can't be used .*expected int, got str"),
        (MOBILELLM, {"num_hidden_layers": 0}, "can't be used"),
        (LLAMA_3_2_1B, {"intermediate_size": None}, "lacks intermediate_size"),
        (LLAMA_3_2_1B, {"rope_scaling": LLAMA_3_2_1B.config["rope_scaling"] | {"factor": 8.0}}, "'factor': 8.0"),
        (LLAMA_3_2_1B, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters is {.*'dynamic'"),
        (LLAMA_3_2_1B, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters is {.*'yarn'"),
        (LLAMA_3_2_1B, {"quantization_config": {"quant_method": "gptq"}}, "quantization_config is {"),
        (LLAMA_3_2_1B, {"sliding_window": 4096}, "sliding_window is 4096"),
        (LLAMA_3_2_1B, {"logit_scale": 0.0625}, "logit_scale is 0.0625"),
        (LLAMA_3_2_1B, {"residual_multiplier": 0.22}, "residual_multiplier is 0.22"),
        (LANGUAGES["SmolLM2-135M"], {"rope_interleaved": True}, "rope_interleaved is True"),
        (QWEN2_0_5B, {"use_sliding_window": True, "max_window_layers": 0}, "layer_types is "),
        (QWEN2_0_5B, {"model_type": "qwen3"}, "is a qwen3 model: give a Llama-type one"),
    ],
)  # fmt: skip
def test_a_language_model_that_is_not_computed(layout: Any, changes: dict, words: str, tmp_path: Path) -> None:
    layout.write(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as caught:
        language_settings(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(": ") >= 1


@pytest.mark.parametrize("changes", [{"pretraining_tp": 2}, {"unsloth_fixed": True}, {"sliding_window": None}])
def test_fields_that_change_nothing(changes: dict, tmp_path: Path) -> None:
    LLAMA_3_2_1B.write(tmp_path, **changes)
    assert language_settings(str(tmp_path))[0].name == "llama"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision": {"image_size": [336, 336]}}, "image_size is .336, 336.: give a model with one number there"),
        ({"vision": {"num_hidden_layers": 10**12}}, "layers is 1000000000000: .* one number there, below 16777216"),
        ({"vision": {"image_size": 224}}, "crop_size is 336, but the tower is given images with 224"),
        ({"vision": {"num_attention_heads": 5}}, r"can't be used \(.*32.*5"),
        ({"vision": {"num_channels": 1}}, "num_channels is 1, but the engine computes 3 alone"),
        ({"vision": {"attention_dropout": 0.1}}, "attention_dropout is 0.1"),
        ({"vision": {"hidden_size": "wide"}}, "can't be used"),
        ({"vision_config": None}, "lacks vision_config"),
        ({"model_type": "blip"}, "is a blip model: give a CLIP or SigLIP one"),
        ({"processor": {"crop_size": {"height": 224, "width": 224}}}, "crop_size is "),
        ({"processor": {"image_mean": [0.5, 0.5, 0.5]}}, "image_mean is .0.5, 0.5, 0.5., but the tower is"),
        ({"processor": {"image_std": [0.5]}}, "image_std is .0.5., but"),
        ({"processor": {"image_std": "half"}}, "image_std is half, but"),
        ({"processor": {"do_normalize": False}}, "do_normalize is False, but"),
        ({"processor": {"rescale_factor": 1.0}}, "rescale_factor is 1.0, but"),
    ],
)  # fmt: skip
def test_a_tower_that_is_not_computed(changes: dict, words: str, tmp_path: Path) -> None:
    layout = TOWERS["CLIP-L/14-336"]
    if "vision" in changes:  # the older copy of the fields would have the last word
        changes = {**changes, "vision_config_dict": None}
    layout.write(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as caught:
        vision_settings(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[1]", '"text"'])
def test_a_broken_preprocessor_file(content: str, tmp_path: Path) -> None:
    TOWERS["SigLIP-L/16-384"].write(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match=r"The preprocessor_config\.json of --vision\.weights .* can't be read \("):
        vision_settings(str(tmp_path))


def test_the_older_copy_of_the_towers_settings_has_the_last_word(tmp_path: Path) -> None:
    TOWERS["CLIP-L/14-336"].write(tmp_path, vision={"num_hidden_layers": 7})
    assert vision_settings(str(tmp_path))[1].num_hidden_layers == 3


@pytest.mark.parametrize("size", [336, {"height": 336, "width": 336}, {"shortest_edge": 336}])
def test_forms_of_a_size(size: object, tmp_path: Path) -> None:
    TOWERS["CLIP-L/14-336"].write(tmp_path, processor={"size": size, "do_center_crop": False})
    assert vision_settings(str(tmp_path))[0].name == "clip"
    (tmp_path / "preprocessor_config.json").unlink()
    assert image_spec_of(tmp_path) == 336


def image_spec_of(folder: Path) -> int:
    family, settings = vision_settings(str(folder))
    return image_spec(family.model_class(settings)).size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("model.layers.1.mlp.up_proj.weight"), "lacks 1 of the model's weights, model.layers"),
        (lambda state: state.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(128)}),
         "has 1 weights that a model of its config.json has no place for, model.layers.0.self_attn.q_proj.bias"),
        (lambda state: state.update({"model.embed_tokens.weight": torch.ones(300, 128)}),
         r"has a weight model.embed_tokens.weight of shape \(300, 128\), but \(333, 128\) by its config.json"),
        (lambda state: state.update({"lm_head.weight": torch.ones(333, 128)}),
         "an output head that differs from its embedding"),
    ],
)  # fmt: skip
def test_weights_that_contradict_the_settings(change: Any, words: str, tmp_path: Path) -> None:
    LLAMA_3_2_1B.write(tmp_path)
    written = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    LLAMA_3_2_1B.write_weights(tmp_path, written)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=words):
        load_language(str(tmp_path))


def test_more_tokens_than_embeddings(tmp_path: Path) -> None:
    layout = mobilellm(2, 1, vocab_size=100)
    layout.write(tmp_path)
    layout.write_weights(tmp_path, as_llama(layout.config))
    model = type("Model", (), {"language": LanguageModel(load_language(str(tmp_path)), "torch")})()
    with pytest.raises(UserError, match="The tokenizer has 340 tokens, but the language model only 100 embeddings"):
        check_vocabulary(model, load_tokenizer(str(tmp_path)))
