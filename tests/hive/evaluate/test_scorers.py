"""Reading, parsing and scoring against cases worked out by hand."""

import pytest

from hive.errors import UserError
from hive.evaluate import gqa, mme, okvqa, scienceqa
from hive.evaluate.benchmarks import BENCHMARKS
from hive.evaluate.report import report, table
from hive.evaluate.vqa_answers import normalise
from tests.support.official_folders import MAKE, make_gqa, make_mme, make_okvqa, make_scienceqa

# ---------------------------------------------------------------------------------------------------------------- MME


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        (" No, it isn't.", "no"),
        ("NO", "no"),
        ("None", "no"),  # the official rule looks for "no" in four characters
        ("I know", None),
        ("It's no", None),
        ("- yes", None),
        (": yes", None),
        (" yes", "yes"),
        ("A no", "no"),
        ("", None),
        ("y", None),
    ],
)
def test_mme_parse(text, answer):
    assert mme.parse(text) == answer


def test_mme(tmp_path):
    questions = mme.load(make_mme(tmp_path))
    assert len(questions) == 30
    assert questions[0].id == "existence/0000/1"
    assert questions[0].prompt == "Is this existence?\nAnswer the question using a single word or phrase."
    artwork = [question for question in questions if question.group == "artwork"]
    assert [question.answers for question in artwork] == [("yes",), ("no",)] * 2
    assert all(question.image and question.image.is_file() for question in questions)
    texts = {question.id: "yes" for question in questions}  # half of the questions, no image with both
    assert mme.score(questions, texts).rows[-3:] == (
        ("perception", 500.0, 22),
        ("cognition", 200.0, 8),
        ("sum", 700.0, 30),
    )
    texts["artwork/0000/2"] = "No."  # artwork: 3 of 4 questions, 1 of 2 images
    scores = {name: value for name, value, _ in mme.score(questions, texts).rows}
    assert scores["artwork"] == 75 + 50
    assert scores["sum"] == 700 - 50 + 125
    right = {question.id: question.answers[0] for question in questions}
    assert mme.score(questions, right).headline == 2800
    assert mme.score(questions, {}).headline == 0


# ---------------------------------------------------------------------------------------------------------------- GQA


def test_gqa(tmp_path):
    questions = gqa.load(make_gqa(tmp_path))
    assert [question.id for question in questions] == ["201", "202", "203"]
    assert questions[0].prompt == "What colour is it?\nAnswer the question using a single word or phrase."
    assert questions[0].image == tmp_path / "images" / "n1.jpg"
    assert gqa.parse("Fire hydrant..") == "fire hydrant"
    assert gqa.parse(" . ") is None
    assert gqa.parse("fire-hydrant") == "fire-hydrant"
    texts = {"201": "Red.", "202": "yes, it is", "203": "a fire hydrant"}
    assert gqa.score(questions, texts).headline == pytest.approx(100 / 3)
    assert gqa.score(questions, {}).headline == 0


# ------------------------------------------------------------------------------------------------------------- OK-VQA


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Dog", "dog"),
        ("a an the", ""),
        ("theatre", "theatre"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("twenty one", "twenty 1"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),  # both apostrophes missing: not in the official table
        ("Im", "im"),
        ("somebody'd", "somebodyd"),  # a slip in the official table
        ("dog's", "dog's"),
        ("1,000", "1000"),
        ("1,000 a-b", "1000 ab"),  # a comma between digits makes every mark vanish
        ("a-b", "b"),  # else it becomes a space, and "a" is an article
        ("red-brown", "red brown"),
        ("red - brown", "red brown"),
        ("red -brown", "red brown"),
        ("black/white", "black white"),
        ("yes!", "yes"),
        ("yes, it is", "yes it is"),
        ("3.5", "3.5"),
        ("3.", "3"),
        (".5", ".5"),
        ("U.S.A.", "usa"),
        ("dog. cat", "dog cat"),
        ("v2.0.", "v2.0"),
        ("hot\tdog\n", "hot dog"),
        ("  hot   dog ", "hot dog"),
        ("(left)", "left"),
        ("what?!", "what"),
        ("$5", "$5"),
        ("", ""),
    ],
)
def test_vqa_normalisation(answer, normal):
    assert normalise(answer) == normal


def test_okvqa(tmp_path):
    questions = okvqa.load(make_okvqa(tmp_path))
    assert [question.id for question in questions] == ["71", "82"]
    assert questions[1].image is not None
    assert questions[1].image.name == "COCO_val2014_000000000008.jpg"
    answers = questions[0].answers
    # Four said it: the four see 3 others (1 each), the six see 4 (1 each).
    assert okvqa.vqa_accuracy("A pony tail.", answers) == 1
    # Three: 3 x 2/3 + 7 x 1 = 9 tenths. Two: 2 x 1/3 + 8 x 2/3 = 6 tenths. One: 0 + 9 x 1/3 = 3 tenths.
    assert okvqa.vqa_accuracy("bun", answers) == pytest.approx(0.9)
    assert okvqa.vqa_accuracy("braid", answers) == pytest.approx(0.6)
    assert okvqa.vqa_accuracy("the hair", answers) == pytest.approx(0.3)
    assert okvqa.vqa_accuracy("wig", answers) == 0
    assert okvqa.vqa_accuracy("the", ("a",) * 10) == 0  # nothing left: no answer
    assert okvqa.score(questions, {"71": "bun", "82": "Two"}).headline == pytest.approx(95)


# ---------------------------------------------------------------------------------------------------------- ScienceQA


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" B\n", "B"),
        ("a", None),
        ("F", None),
        ("C. because", "C"),
        ("C.", None),
        ("C.because", None),
        ("The answer is D.", "D"),
        ("Well. The answer is D. Really.", "D"),
        ("The answer is D", None),
        ("The answer is A. The answer is B.", None),
        ("(A)", None),
        ("AB", None),
        ("", None),
    ],
)
def test_scienceqa_parse(text, letter):
    assert scienceqa.parse(text) == letter


def test_scienceqa(tmp_path):
    with_image, without = scienceqa.load(make_scienceqa(tmp_path))
    assert with_image.prompt == (
        "Context: A picture.\nWhich?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    )
    assert without.prompt.startswith("How far?\nA. near\nB. far\nC. here\nAnswer")
    assert without.image is None
    texts = {"4": "B", "5": "The answer is E."}  # a letter that is no choice
    assert scienceqa.score([with_image, without], texts).rows == (("with an image", 100.0, 1), ("all", 50.0, 2))


# ---------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("name", MAKE)
def test_folders_that_are_none(tmp_path, name):
    load = BENCHMARKS[name].load
    with pytest.raises(UserError, match="not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"lacks .*: it has to hold"):
        load(tmp_path)
    root = MAKE[name](tmp_path / "set")
    for path in sorted(root.rglob("*")):
        if path.suffix in (".png", ".jpg"):
            path.unlink()
    with pytest.raises(UserError, match="none of the images"):
        load(root)


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("mme", "count/0000.txt", "one line\tYes\n", "two lines"),
        ("mme", "count/0000.txt", "a\tYes\nb\tPerhaps\n", "two lines"),
        ("gqa", "testdev_balanced_questions.json", "{", "can't be read as JSON"),
        ("gqa", "testdev_balanced_questions.json", "[]", "no object of questions"),
        ("gqa", "testdev_balanced_questions.json", '{"1": {"question": "x"}}', "question 1 lacks"),
        ("gqa", "testdev_balanced_questions.json",
         '{"1": {"question": "x", "imageId": "../a", "answer": "b"}}', "imageId"),
        ("gqa", "testdev_balanced_questions.json",
         '{"1": {"question": "x\\ud800", "imageId": "1", "answer": "b"}}', "surrogate"),
        ("okvqa", "mscoco_val2014_annotations.json", '{"annotations": [{"question_id": 71}]}', "annotators"),
        ("okvqa", "mscoco_val2014_annotations.json", '{"annotations": [{"question_id": 71, "answers": 3}]}', "annot"),
        ("okvqa", "OpenEnded_mscoco_val2014_questions.json", '{"questions": []}', 'no list "questions"'),
        ("okvqa", "OpenEnded_mscoco_val2014_questions.json",
         '{"questions": [{"question_id": 9, "image_id": 1, "question": "x"}]}', "no annotation for question 9"),
        ("scienceqa", "pid_splits.json", '{"train": []}', 'no list "test"'),
        ("scienceqa", "pid_splits.json", '{"test": [["4"]]}', 'no list "test" of ids'),
        ("scienceqa", "pid_splits.json", '{"test": ["99"]}', "lacks the test problem 99"),
        ("scienceqa", "problems.json",
         '{"4": {"question": "x", "choices": ["a", "b"], "answer": 2}}', "none of its choices"),
        ("scienceqa", "problems.json", '{"4": {"question": "x", "choices": ["a"], "answer": 0}}', "its choices"),
    ],
)  # fmt: skip
def test_files_that_are_not_the_official_ones(tmp_path, name, file, content, said):
    root = MAKE[name](tmp_path)
    (root / file).write_text(content)
    with pytest.raises(UserError, match=said):
        BENCHMARKS[name].load(root)


def test_table_and_report(tmp_path):
    benchmark = BENCHMARKS["gqa"]
    questions = benchmark.load(make_gqa(tmp_path))
    texts = {"201": "Unanswerable.", "202": " . "}
    shown = table(benchmark, benchmark.score(questions, {"201": "red"}), "mine")
    for part in ("58.05", "33.33", "mine", "3 questions, the official set has 12,578"):
        assert part in shown
    rows = dict(line[:25].rsplit(maxsplit=1) for line in report(benchmark, questions, texts).splitlines())
    assert rows == {
        "questions": "3",
        "with an image": "3",
        "missing an image": "1",
        "unanswerable": "1",
        "unparsed": "1",
    }
