"""Tables of the score beside the paper's, and of the questions that got no usable answer."""

from collections.abc import Mapping, Sequence

from hive.evaluate.benchmark import Benchmark, Question, Score

UNANSWERABLE = frozenset(
    {"unanswerable", "unknown", "unclear", "not sure", "i don't know", "cannot be determined", "can't be determined"}
)


def table(benchmark: Benchmark, score: Score, model_id: str) -> str:
    """Returns a text table: each part's score, then the paper's column of Table 2, if any, with this model's score."""
    rows = [f"{benchmark.name:<24}{'score':>9}{'questions':>11}"]
    rows += [f"{name.replace('_', ' '):<24}{value:>9.2f}{questions:>11,}" for name, value, questions in score.rows]
    if benchmark.paper:
        rows += ["", f"{'encoder':<24}{benchmark.name:>9}  paper, Table 2"]
        rows += [f"{encoder:<24}{value:>9g}" for encoder, value in benchmark.paper.items()]
        rows += [f"{model_id:<24}{score.headline:>9.2f}  this model"]
    asked = score.rows[-1][2]
    if asked != benchmark.questions:
        rows.append(f"These are {asked:,} questions, the official set has {benchmark.questions:,}: no comparison.")
    return "\n".join(rows)


def report(benchmark: Benchmark, questions: Sequence[Question], texts: Mapping[str, str]) -> str:
    """Returns a text table of how many questions were not asked, or got no usable answer.

    A question is unanswerable where the model says that it can't tell, and unparsed where its text has no answer of the
    expected form. All of these count as wrong, unless an annotator gave the same answer.
    """
    answered = [texts[question.id] for question in questions if question.id in texts]
    unanswerable = sum(text.strip().strip(".").lower() in UNANSWERABLE for text in answered)
    unparsed = sum(benchmark.parse(text) is None for text in answered)
    rows = (
        ("questions", len(questions), ""),
        ("with an image", sum(question.image is not None for question in questions), ""),
        (
            "missing an image",
            len(questions) - len(answered),
            "missing or not readable, so not asked; counted as wrong",
        ),
        ("unanswerable", unanswerable, "the model said that it can't tell"),
        ("unparsed", unparsed, "no answer of the expected form; counted as wrong"),
    )
    return "\n".join(f"{name:<18}{count:>7,}  {words}".rstrip() for name, count, words in rows)
