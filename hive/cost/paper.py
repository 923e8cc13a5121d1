"""What the paper says about cost: its formulas, restored, its numbers, and where they contradict each other."""

from dataclasses import dataclass

CC3M_PAIRS = 595_375  # LLaVA's CC3M-595K, the paper's data
LCS_CONVERSATIONS = 558_128  # LLaVA-1.5's LCS-558K, stage 1 of Table 5
LLAVA_NEXT_CONVERSATIONS = 738_590  # LLaVA-NeXT's, stage 2 of Table 5


def self_attention_complexity(layers: int, width: int, visual: int, text: int) -> float:
    """Equations 2 and 4: L (N^2 d / 2 + N d^2) with N visual and text tokens together; half the square is masked.

    An order of growth, in multiply-adds without their constants. The formulas are missing from the paper's text and are
    restored from the words around them.
    """
    tokens = visual + text
    return layers * (tokens**2 * width / 2 + tokens * width**2)


def cross_attention_complexity(layers: int, selected: int, width: int, visual: int, text: int) -> float:
    """Equations 3 and 5: S N_t N_v d + L (N_t^2 d / 2 + N_t d^2); only text passes through the language model."""
    return selected * text * visual * width + layers * (text**2 * width / 2 + text * width**2)


@dataclass(frozen=True)
class Claim:
    """A comparison that the paper makes, as it writes the numbers."""

    table: str
    what: str
    self_attention: str
    hive: str


FLOPS = Claim("Table 6", "training TFLOPs", "1.0x", "0.14x")
MEMORY_OVERHEAD = Claim("Table 6", "memory overhead", "1.0x", "0.8x")
TIME = Claim("Table 8", "minutes an epoch", "240", "70 (3.43x faster)")
MEMORY = Claim("Table 9", "peak memory", "54.2 GB", "22.03 GB (59.3 % less)")

INCONSISTENCIES = (
    "Memory is 0.8x in Table 6, 55 % less in section 4.6 and 59.3 % less in Table 9.",
    "Section 4.6 gives a speed-up of 3x with MobileLLM-350M, section 8.2 one of 3.43x with a model called LLaVA 1B, "
    "and both are presented as one result.",
    "A peak of 54.2 GB does not fit into the 24 GB of the one RTX 3090 that is named.",
    "Passing 595,375 pairs through stage 3 in 70 or 240 minutes takes more FLOP/s than an RTX 3090 has.",
    "SigLIP's tokenizer is said to give 77 tokens; its text tower takes 64, 77 is CLIP's, and MobileLLM has a "
    "vocabulary of its own. Both have 32,000 entries, so a wrong pairing never fails, it only trains on nonsense.",
    "In Table 1 HIVE is below the untrained baseline for CLIP on Cars and Pets and below self-attention for CLIP on "
    "ImageNet, and many differences are within one deviation.",
    "In Table 2 self-attention pre-training is below no pre-training in every column.",
    "The selection is 25 % uniform in section 3.2 and the later layers for SigLIP in section 4.5; section 3.3 aligns "
    "layer l with layer l, although 24 layers are not 32.",
    "Section 3.3 describes cross-attention blocks that are injected; the released code puts image keys into the "
    "softmax of the host's own attention. The paper has a residual projector, the released scripts none.",
    "Section 6 calls a cascaded model the cheaper one, section 8 the hierarchical one.",
    "Table 2 is said to use Llama-3.2-1B, the released scripts use Qwen2-0.5B.",
    "The paper's optimiser decays weights independently of the learning rate; the released code uses plain AdamW.",
    "A training cost of 0.14x can only be that of the language model's side: with the vision encoder, which both "
    "methods run, the ratio over the three stages does not get that low.",
)
