"""Answers templated questions from a frozen tower's tokens, or without any, from what the questions alone say."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hive.claim.questions import NOT_ASKED, Questions
from hive.data.order import indices
from hive.probe.fit import learning_rates, total_steps
from hive.probe.protocol import Protocol

HIDDEN = 256  # width of what the answer is read from

Pictures = Callable[[np.ndarray], Tensor]
"""Rows [B] of a split to those drawings' normalised tokens [B, N, D], fp32."""


@dataclass(frozen=True)
class Sight:
    """What the questions are answered from."""

    pictures: Mapping[str, Pictures]
    """By split."""
    readable: Mapping[str, np.ndarray]
    """By split: the rows that have a picture, int64."""
    width: int
    """D, of the tokens."""
    heads: int
    """Of attention."""
    device: torch.device


def blind(rows: Mapping[str, np.ndarray], width: int, heads: int, device: torch.device) -> Sight:
    """No picture: one token of zeros, of which attention makes what it makes of any number of them."""

    def nothing(rows: np.ndarray) -> Tensor:
        return torch.zeros(len(rows), 1, width, device=device)

    return Sight(dict.fromkeys(rows, nothing), rows, width, heads, device)


class Answerer(nn.Module):
    """A question's words make the queries of attention over a picture's tokens, and gate what it finds.

    B pictures, P questions about each, N tokens of width D, H attention heads. The projections of keys and values are
    applied to the query and to the weighted mean of the tokens, as in `AttentionHeads`. A word that no question that is
    trained on has says nothing.
    """

    def __init__(self, questions: Questions, width: int, heads: int) -> None:
        """Fresh weights, from torch's generator."""
        super().__init__()
        asked = questions.tokens[np.unique(questions.asked["train"][:, questions.trained])]
        known = np.unique(asked[asked >= 0])
        words = np.where(np.isin(questions.tokens, known), 1 + np.searchsorted(known, questions.tokens), 0)
        self.words: Tensor
        self.register_buffer("words", torch.from_numpy(words))
        self.kinds, self.heads = questions.kinds, heads
        self.embedding = nn.Embedding(1 + len(known), width, padding_idx=0)
        nn.init.normal_(self.embedding.weight[1:], std=0.02)  # rare words are learned in few steps
        self.norm = nn.LayerNorm(width)
        self.query, self.value, self.gate = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # softmax would ignore it
        self.mlp = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU())
        self.classifiers = nn.ModuleDict({kind: nn.Linear(HIDDEN, len(a)) for kind, a in questions.answers.items()})

    def forward(self, tokens: Tensor, asked: Tensor) -> list[Tensor]:
        """Tokens [B, N, D] and questions [B, P], to logits [B, A] over the answers to the kind of each place."""
        (B, P), H = asked.shape, self.heads
        different, back = asked.unique(return_inverse=True)
        text = self.norm(self.embedding(self.words[different]).sum(1))
        query = self.query(text).unflatten(1, (H, -1)) / math.sqrt(tokens.shape[2] // H)
        reader = torch.einsum("qhk,hkd->qhd", query, self.key.weight.unflatten(0, (H, -1)))
        scores = reader[back].flatten(1, 2) @ tokens.transpose(1, 2)  # [B, P H, N]
        seen = (scores.softmax(2) @ tokens).view(B, P, H, -1)
        pooled = torch.einsum("bphd,hkd->bphk", seen, self.value.weight.unflatten(0, (H, -1))).flatten(2)
        hidden = self.mlp((pooled + self.value.bias) * self.gate(text)[back])
        return [self.classifiers[kind](hidden[:, place]) for place, kind in enumerate(self.kinds)]


def answer(questions: Questions, sight: Sight, protocol: Protocol, seed: int) -> dict[str, Any]:
    """Share of right answers by kind and split, with the learning rate that is best on the validation concepts.

    Best is the highest mean over the kinds. Drawings that can't be read are not trained on, and the answers to the
    questions about them count as wrong.
    """
    readable = sight.readable["train"]
    trained = questions.trained[readable]
    answerers = _train(questions, sight, readable[trained], protocol, seed)
    asked = questions.asked_of("train", ~questions.trained)
    points = []
    for answerer in answerers:
        right = _right(answerer, questions, sight, "train", readable[~trained], protocol.batch_size)
        shares = [right[kind] / count for kind, count in asked.items() if count]
        points.append(sum(shares) / max(1, len(shares)))
    best = int(np.argmax(points))
    accuracy: dict[str, dict[str, float]] = {kind: {} for kind in questions.answers}
    for split in questions.heldout:
        right = _right(answerers[best], questions, sight, split, sight.readable[split], protocol.batch_size)
        for kind, count in questions.asked_of(split).items():
            if count:
                accuracy[kind][split] = right[kind] / count
    return {"accuracy": accuracy, "learning_rate": protocol.grid[best][0], "validation": points}


def _train(questions: Questions, sight: Sight, chosen: np.ndarray, protocol: Protocol, seed: int) -> list[Answerer]:
    """An answerer for each grid point, side by side from the same initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Answerer(questions, sight.width, sight.heads).to(sight.device)
    answerers = [copy.deepcopy(fresh) for _ in protocol.grid]
    optimizers = [
        torch.optim.AdamW(answerer.parameters(), lr=rate, weight_decay=decay)
        for answerer, (rate, decay) in zip(answerers, protocol.grid, strict=True)
    ]
    total, batch = total_steps(protocol, len(chosen)), min(protocol.batch_size, len(chosen))
    all_asked = questions.asked["train"]
    for step in range(total):
        passes, places = np.array(indices(len(chosen), seed, step * batch, batch)).T
        rows = chosen[places]
        asked = torch.from_numpy(all_asked[passes % len(all_asked), rows]).to(sight.device)
        right = torch.from_numpy(questions.right["train"][rows]).to(sight.device)
        tokens = sight.pictures["train"](rows)
        rates = learning_rates(protocol, step, total).tolist()
        for answerer, optimizer, rate in zip(answerers, optimizers, rates, strict=True):
            logits = answerer(tokens, asked)
            lost = [
                F.cross_entropy(found, wanted, ignore_index=NOT_ASKED, reduction="sum")
                for found, wanted in zip(logits, right.T, strict=True)
            ]
            optimizer.zero_grad()
            (torch.stack(lost).sum() / batch).backward()
            nn.utils.clip_grad_norm_(answerer.parameters(), protocol.clip)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    return answerers


@torch.no_grad()
def _right(
    answerer: Answerer, questions: Questions, sight: Sight, split: str, rows: np.ndarray, batch: int
) -> dict[str, int]:
    """How many questions of each kind about these drawings it answers rightly."""
    hits = np.zeros(len(questions.kinds), dtype=np.int64)
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        asked = torch.from_numpy(questions.asked[split][0, some]).to(sight.device)
        logits = answerer(sight.pictures[split](some), asked)
        answered = torch.stack([found.argmax(1) for found in logits], 1).cpu().numpy()
        hits += (answered == questions.right[split][some]).sum(0)
    return questions.by_kind(hits)
