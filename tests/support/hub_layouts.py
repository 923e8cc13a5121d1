"""Folders as the hub has those of the models that recipes and docs name: their JSON, with small shapes and weights.

Field names and values are those of the published files: MobileLLM's as given with a report of its users and as in
facebookresearch/MobileLLM's configs/, the others' as quoted in public repositories that read them. Only widths, numbers
of layers, vocabularies, and the ids of special tokens in them are smaller.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, PreTrainedConfig, PreTrainedModel, SiglipConfig, SiglipModel

Json = dict[str, Any]
TEXTS = [
    "a red disc on a table",
    "hello world, this is a test of 12 or 345 pieces",
    "the quick brown fox jumps over the lazy dog",
    "a blue star and a green square; two cafés",
] * 20
HEAD_DIM, MLP, LAYERS = 8, 96, 2
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def added(content: str, **flags: bool) -> Json:
    """A token's record in tokenizer_config.json and special_tokens_map.json."""
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, **flags}


def write_json(folder: Path, **files: Json | None) -> None:
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))


def write_sentencepiece(folder: Path, **options: Any) -> sentencepiece.SentencePieceProcessor:
    """Writes a tokenizer.model that was trained as Llama's was, unless `options` of the trainer differ."""
    usual: Json = {"vocab_size": 340, "model_type": "bpe", "byte_fallback": True, "unk_id": 0, "bos_id": 1,
                   "eos_id": 2, "pad_id": -1, "normalization_rule_name": "identity",
                   "remove_extra_whitespaces": False}  # fmt: skip
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_writer=file, minloglevel=2, hard_vocab_limit=False, **usual | options
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def write_byte_level(folder: Path, before: list[pre_tokenizers.PreTokenizer], specials: list[str]) -> None:
    """Writes tokenizer.json, vocab.json and merges.txt of a byte-level BPE; `before` splits words before bytes do."""
    made = tokenizers.Tokenizer(models.BPE())
    own_split = any(isinstance(splitter, pre_tokenizers.Split) for splitter in before)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not own_split)
    made.pre_tokenizer = pre_tokenizers.Sequence([*before, last])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens(specials)
    made.save(str(folder / "tokenizer.json"))
    made.model.save(str(folder))


def write_smollm2(folder: Path) -> None:
    write_byte_level(
        folder, [pre_tokenizers.Digits(individual_digits=True)], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )


def write_llama3(folder: Path) -> None:
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    write_byte_level(folder, [pre_tokenizers.Split(words, "isolated")], specials)


def write_qwen2(folder: Path) -> None:
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    write_byte_level(folder, [pre_tokenizers.Split(words, "isolated")], specials)


@dataclass(frozen=True)
class LanguageLayout:
    """A language model's folder on the hub."""

    config: Json
    tokenizer: Callable[[Path], object]
    """Writes the vocabulary's files."""
    tokenizer_config: Json
    special_tokens_map: Json | None = None
    generation_config: Json | None = None
    weights: str = "model.safetensors"
    dtype: torch.dtype = torch.bfloat16

    def write(self, folder: Path, **changes: Any) -> None:
        """Writes all files but the weights, with `changes` of config.json; None leaves a field out."""
        self.tokenizer(folder)
        config = {
            key: value for key, value in (self.config | changes).items() if key not in changes or value is not None
        }
        write_json(folder, config=config, tokenizer_config=self.tokenizer_config,
                   special_tokens_map=self.special_tokens_map, generation_config=self.generation_config)  # fmt: skip

    def write_weights(self, folder: Path, model: PreTrainedModel) -> None:
        """Writes a model's weights under the names, in the dtype and in the form of file of the hub."""
        tensors = {name: value.detach().to(self.dtype) for name, value in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        if self.weights.endswith(".bin"):
            torch.save(tensors, folder / self.weights)
        else:
            save_file(tensors, folder / self.weights, {"format": "pt"})


def mobilellm(heads: int, kv_heads: int, **changes: Any) -> LanguageLayout:
    config = {
        "architectures": ["MobileLLMForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_mobilellm.MobileLLMConfig",
                     "AutoModelForCausalLM": "modeling_mobilellm.MobileLLMForCausalLM"},
        "bos_token_id": 1, "eos_token_id": 2, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "hidden_size": heads * HEAD_DIM, "initializer_range": 0.02, "intermediate_size": MLP, "layer_sharing": False,
        "max_position_embeddings": 2048, "mlp_bias": False, "model_type": "mobilellm", "num_attention_heads": heads,
        "num_hidden_layers": LAYERS, "num_key_value_heads": kv_heads, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "share_embedding": True, "tie_word_embeddings": False,
        "torch_dtype": "float16", "transformers_version": "4.41.2", "use_cache": True, "vocab_size": 340,
    }  # fmt: skip
    named = {"bos_token": "", "eos_token": "", "model_max_length": 1000000000000000019884624838656,
             "tokenizer_class": "LlamaTokenizer", "unk_token": ""}  # fmt: skip
    return LanguageLayout(
        config | changes, write_sentencepiece, named, weights="pytorch_model.bin", dtype=torch.float16
    )


def smollm2(heads: int, kv_heads: int) -> LanguageLayout:
    config = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 330,
        "eos_token_id": 330, "hidden_act": "silu", "hidden_size": heads * HEAD_DIM, "initializer_range": 0.0416666667,
        "intermediate_size": MLP, "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama",
        "num_attention_heads": heads, "num_hidden_layers": LAYERS, "num_key_value_heads": kv_heads,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
        "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1", "use_cache": True, "vocab_size": 333,
    }  # fmt: skip
    end = "<|endoftext|>"
    named = {
        "add_prefix_space": False, "added_tokens_decoder": {"330": added(end, special=True)},
        "additional_special_tokens": [end, "<|im_start|>", "<|im_end|>"], "bos_token": end,
        "clean_up_tokenization_spaces": False, "eos_token": end, "model_max_length": 8192,
        "tokenizer_class": "GPT2Tokenizer", "unk_token": end, "vocab_size": 49152,
    }  # fmt: skip
    token_map = {"additional_special_tokens": [end, "<|im_start|>", "<|im_end|>"],
                 **dict.fromkeys(("bos_token", "eos_token", "unk_token"), added(end))}  # fmt: skip
    return LanguageLayout(config, write_smollm2, named, token_map, {"bos_token_id": 330, "eos_token_id": 330})


LLAMA_3_2_1B = LanguageLayout(
    {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 330,
        "eos_token_id": [331, 332], "head_dim": 4, "hidden_act": "silu", "hidden_size": 128,
        "initializer_range": 0.02, "intermediate_size": MLP, "max_position_embeddings": 131072, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": LAYERS, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 333,
    },
    write_llama3,
    {
        "added_tokens_decoder": {"330": added("<|begin_of_text|>", special=True),
                                 "332": added("<|eot_id|>", special=True)},
        "bos_token": "<|begin_of_text|>", "clean_up_tokenization_spaces": True, "eos_token": "<|eot_id|>",
        "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    },
    {"bos_token": added("<|begin_of_text|>"), "eos_token": added("<|eot_id|>")},
    {"bos_token_id": 330, "do_sample": True, "eos_token_id": [331, 332], "temperature": 0.6, "top_p": 0.9},
)  # fmt: skip

QWEN2_0_5B = LanguageLayout(
    {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 330, "eos_token_id": 330,
        "hidden_act": "silu", "hidden_size": 14 * HEAD_DIM, "initializer_range": 0.02, "intermediate_size": MLP,
        "max_position_embeddings": 131072, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": LAYERS, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 131072, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1", "use_cache": True, "use_sliding_window": False, "vocab_size": 336,
    },
    write_qwen2,
    {
        "add_prefix_space": False, "added_tokens_decoder": {"330": added("<|endoftext|>", special=True)},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>", "errors": "replace",
        "model_max_length": 32768, "pad_token": "<|endoftext|>", "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    },
    None,
    {"bos_token_id": 330, "do_sample": False, "eos_token_id": 330, "max_new_tokens": 2048},
)  # fmt: skip

LANGUAGES = {
    "MobileLLM-125M": mobilellm(9, 3),
    "MobileLLM-350M": mobilellm(15, 5),
    "MobileLLM-600M": mobilellm(18, 6),
    "SmolLM2-135M": smollm2(9, 3),
    "SmolLM2-360M": smollm2(15, 5),
    "Llama-3.2-1B-Instruct": LLAMA_3_2_1B,
    "Qwen2-0.5B": QWEN2_0_5B,
}


@dataclass(frozen=True)
class TowerLayout:
    """A whole contrastive model's folder on the hub."""

    config: Json
    processor: Json
    kind: type[PreTrainedModel]
    settings: type[PreTrainedConfig]
    weights: str

    def write(self, folder: Path, processor: Json | None = None, vision: Json | None = None, **changes: Any) -> None:
        """Writes the JSON files, with changes of fields; None leaves one out."""
        config = self.config | {"vision_config": self.config["vision_config"] | (vision or {})} | changes
        preprocessor = self.processor | (processor or {})
        write_json(folder, config={key: value for key, value in config.items() if value is not None},
                   preprocessor_config=preprocessor)  # fmt: skip

    def write_weights(self, folder: Path) -> None:
        """Writes random weights of the whole model, text tower included, in the hub's form of file."""
        torch.manual_seed(0)
        model: Any = self.kind(self.settings.from_dict(json.loads((folder / "config.json").read_text())))
        tensors = {name: torch.randn_like(value) * 0.1 for name, value in model.state_dict().items()}
        for name in tensors:
            if "norm" in name and name.endswith("weight"):
                tensors[name] += 1
        if self.weights.endswith(".bin"):  # of a time when these were buffers
            for tower in ("text_model", "vision_model"):
                places = len(tensors[f"{tower}.embeddings.position_embedding.weight"])
                tensors[f"{tower}.embeddings.position_ids"] = torch.arange(places)[None]
            torch.save(tensors, folder / self.weights)
        else:
            save_file(tensors, folder / self.weights, {"format": "pt"})


def clip_part(kind: str, **shape: Any) -> Json:
    """One half of CLIP's config.json, which once held every default of transformers."""
    return {
        "_name_or_path": "", "add_cross_attention": False, "architectures": None, "attention_dropout": 0.0,
        "bad_words_ids": None, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None, "do_sample": False,
        "dropout": 0.0, "hidden_act": "quick_gelu", "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "initializer_factor": 1.0, "initializer_range": 0.02, "is_decoder": False, "is_encoder_decoder": False,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "layer_norm_eps": 1e-05, "length_penalty": 1.0, "max_length": 20,
        "model_type": kind, "output_attentions": False, "output_hidden_states": False, "projection_dim": 16,
        "pruned_heads": {}, "return_dict": True, "tie_word_embeddings": True, "torch_dtype": None,
        "torchscript": False, "transformers_version": "4.21.3", "use_bfloat16": False, **shape,
    }  # fmt: skip


CLIP_SHAPE = {"hidden_size": 32, "image_size": 336, "intermediate_size": 64, "num_attention_heads": 4,
              "num_hidden_layers": 3, "patch_size": 14, "projection_dim": 16}  # fmt: skip
CLIP_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
             "projection_dim": 16}  # fmt: skip
CLIP_L_336 = TowerLayout(
    {
        "_name_or_path": "openai/clip-vit-large-patch14-336", "architectures": ["CLIPModel"], "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 16,
        "text_config": clip_part("clip_text_model", max_position_embeddings=77, vocab_size=60, bos_token_id=0,
                                 eos_token_id=2, pad_token_id=1, **CLIP_TEXT),
        "text_config_dict": CLIP_TEXT | {"vocab_size": 60},
        "torch_dtype": "float32", "transformers_version": None,
        "vision_config": clip_part("clip_vision_model", num_channels=3, **CLIP_SHAPE), "vision_config_dict": CLIP_SHAPE,
    },
    {"crop_size": 336, "do_center_crop": True, "do_normalize": True, "do_resize": True,
     "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3,
     "size": 336},
    CLIPModel,
    CLIPConfig,
    "pytorch_model.bin",
)  # fmt: skip


def siglip(heads: int, patch: int) -> TowerLayout:
    shape = {"hidden_size": 8 * heads, "intermediate_size": 80, "num_attention_heads": heads, "num_hidden_layers": 3}
    config = {
        "architectures": ["SiglipModel"], "initializer_factor": 1.0, "model_type": "siglip",
        "text_config": {**shape, "model_type": "siglip_text_model", "num_hidden_layers": 1, "vocab_size": 60},
        "torch_dtype": "float32", "transformers_version": "4.37.0.dev0",
        "vision_config": {**shape, "image_size": 384, "model_type": "siglip_vision_model", "patch_size": patch},
    }  # fmt: skip
    processor = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": 384, "width": 384},
    }  # fmt: skip
    return TowerLayout(config, processor, SiglipModel, SiglipConfig, "model.safetensors")


TOWERS = {"CLIP-L/14-336": CLIP_L_336, "SigLIP-L/16-384": siglip(4, 16), "SigLIP-so400m/14-384": siglip(4, 14)}
TOKENS = {"CLIP-L/14-336": 576, "SigLIP-L/16-384": 576, "SigLIP-so400m/14-384": 729}
"""Patch tokens of an image."""
