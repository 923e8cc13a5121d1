"""The model card of an export: the README.md that the hub shows, written from the facts of the run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from hive.config import TowerConfig
from hive.data.images import ImageSpec
from hive.data.open_source import is_hub_name
from hive.export.facts import Facts
from hive.model.families import tower_family

CARD = "README.md"
PAGE = "https://eugenelet.github.io/HIVE-Project/"
EMBEDDED = (
    "the drawings of emoji that come with HIVE, whose licences (Apache-2.0, MIT, Unicode-3.0) are in its folder "
    "`hive/data/embedded/`"
)


UPRIGHT = "image = ImageOps.exif_transpose(Image.open(path))"
GREY = 'image = image.point(lambda level: level * (1 / 256)).convert("L") if image.mode.startswith("I") else image'
WHITE = 'image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")'
PROCESSOR = (
    "Where torchvision is installed, transformers resizes with it. Single pixels at hard edges then differ by some of "
    "255 levels.",
    "Give images rather than paths: from a path, and in its pipelines, transformers drops transparency before the "
    "processor sees the image.",
    "transformers 4.57 and 5.17 ignore a single colour that an RGB PNG declares transparent, and drop all "
    "transparency where a class is loaded by name, such as CLIPImageProcessor, instead of AutoImageProcessor. 5.23 "
    "does neither.",
)
DECODE = (
    "Grey of fewer bits in a 16-bit file, such as a 12-bit scan, needs another factor than 1 / 256. With HIVE "
    "installed, `hive.data.images.decode(data, max_megapixels)` does all that training did."
)


@dataclass(frozen=True)
class Form:
    """How one kind of export is used, for its card."""

    library: str
    """The hub's `library_name`."""
    code: str
    """How the folder is loaded; FOLDER stands for it."""
    outputs: Mapping[str, str]
    """What each output is, by its name in code."""
    remarks: Sequence[str] = ()
    """Paragraphs on what is particular to this form."""
    language: str = "python"
    """Of the code."""
    reads_processor: bool = False
    """Whether that code prepares images as preprocessor_config.json says."""


def trained_output(facts: Facts) -> str:
    """The deepest trained hidden state in words."""
    if facts.deepest == 0:
        return "the embeddings, the only hidden state that the language model read"
    return f"the output of layer {facts.deepest}, the deepest hidden state that the language model read"


def transformers_form(tower: PreTrainedModel, facts: Facts) -> Form:
    """The form of a tower that transformers loads by its own class."""
    family, layers = tower_family(tower), tower.config.num_hidden_layers
    untrained = f"layers {facts.deepest + 1} to {layers} are as they were before the training"
    patches = ", patch tokens from position 1 on" if family.class_tokens else ""
    of_class_token = "no loss has read it: take the mean of the patch tokens instead"
    if facts.keeps_untrained:
        outputs = {
            f"hidden_states[{facts.deepest}]": f"{trained_output(facts)}{patches}",
            "last_hidden_state": f"what follows it was not trained: {untrained}, and so is the final norm"
            if layers > facts.deepest
            else f"{trained_output(facts)}{patches}; a final norm, where the class has one, was not trained",
            "pooler_output": "the tower's own pooling, which was not trained",
        }
    elif family.pools_by_attention:
        outputs = {
            "last_hidden_state": f"{trained_output(facts)}, each token normalised to mean 0 and deviation 1",
            "pooler_output": "the mean of these tokens, written as an attention head with equal weights",
            "hidden_states[-1]": f"{trained_output(facts)}, without that norm",
        }
    else:
        outputs = {
            "last_hidden_state": f"{trained_output(facts)}{patches}",
            "pooler_output": f"the class token of that layer, normalised to mean 0 and deviation 1; {of_class_token}",
        }
    code = (
        "from transformers import AutoImageProcessor, AutoModel\n\n"
        'tower = AutoModel.from_pretrained("FOLDER")\nprocessor = AutoImageProcessor.from_pretrained("FOLDER")\n'
        'features = tower(**processor(image, return_tensors="pt")).last_hidden_state'
    )
    return Form("transformers", code, outputs, reads_processor=True)


def write_card(folder: Path, facts: Facts, tower: PreTrainedModel, form: Form) -> None:
    """Writes the model card of a tower in this form."""
    (folder / CARD).write_text(card(facts, tower, form), encoding="utf-8")


def card(facts: Facts, tower: PreTrainedModel, form: Form) -> str:
    """The text of the model card: the hub's YAML, then sections."""
    family = tower_family(tower)
    shape = family.described(TowerConfig(), tower.config)
    sections = [
        _header(facts, family.name, form),
        f"# A {family.title} vision tower, pre-trained by HIVE\n",
        f"A vision tower of {shape.layers} layers, {shape.hidden_size} wide, for images of {shape.image_size} x "
        f"{shape.image_size} pixels in patches of {shape.patch_size}. [HIVE]({PAGE}) trained it through a small "
        "language model, which had to predict the captions of images while it read hidden states of the tower.\n",
        f"## Use\n\n```{form.language}\n{form.code}\n```\n",
        *[f"{remark}\n" for remark in form.remarks],
        "| output | is |\n|---|---|\n" + "".join(f"| `{name}` | {words} |\n" for name, words in form.outputs.items()),
        _layers(facts, shape.layers),
        _pixels(family.image_spec(shape.image_size), form),
        _training(facts),
        _losses(facts),
        _licence(facts),
    ]
    return "\n".join(sections)


def _header(facts: Facts, family: str, form: Form) -> str:
    """The hub's YAML. JSON's strings are YAML's too."""
    lines = [
        "license: unknown",
        f"library_name: {form.library}",
        "pipeline_tag: image-feature-extraction",
        *_list("tags", ["hive", "vision", family]),
        *_list("base_model", _hub_names(facts.tower_source)),
        *_list("datasets", _hub_names(facts.data)),
    ]
    return "---\n" + "\n".join(lines) + "\n---\n"


def _list(name: str, values: Sequence[str]) -> list[str]:
    return [f"{name}:", *(f"- {json.dumps(value)}" for value in values)] if values else []


def _hub_names(source: str | None) -> list[str]:
    return [source] if source is not None and is_hub_name(source) else []


def _layers(facts: Facts, layers: int) -> str:
    read = ", ".join(map(str, facts.read))
    text = (
        f"While it was trained the tower had {facts.trained_layers} layers. The language model read its hidden states "
        f"{read} (0 = embeddings, k = output of layer k), so no layer above {facts.deepest} was trained."
    )
    above = facts.trained_layers - facts.deepest
    if facts.keeps_untrained:
        return f"{text} They are kept here, and so are the final norm and the pooling, as they were.\n"
    cut = f"The {above} above it were cut. " if above > 1 else "The one above it was cut. " if above == 1 else ""
    return (
        f"{text} {cut}The final norm was not trained either and has gain 1 and bias 0 here, so that nothing that was "
        "never trained acts on the features.\n"
    )


def _pixels(spec: ImageSpec, form: Form) -> str:
    way = (
        "the shorter side is resized to that size and the centre is cut out"
        if spec.resize == "crop"
        else "both sides are resized to that size"
    )
    text = (
        f"## Pixels\n\nImages were resized to {spec.size} x {spec.size} by bicubic interpolation ({way}), divided by "
        f"255, and normalised with mean {list(spec.mean)} and deviation {list(spec.std)}. Camera rotation (EXIF) was "
        "applied, transparency laid on white, and 16-bit grey brought to 8 bits before. "
    )
    lines, others = [UPRIGHT, GREY], list(PROCESSOR)
    if form.reads_processor:
        text += "preprocessor_config.json says so to AutoImageProcessor, as far as the classes of transformers can:\n\n"
        what = "They do not apply EXIF rotation, and clip 16-bit grey to white."
    else:
        text += "The code that loads this folder prepares images by rules of its own:\n\n"
        what = "It applies no EXIF rotation, may need RGB, and takes 16-bit grey and transparency wrongly."
        lines, others = [*lines, WHITE], []
    code = "".join(f"  {line}\n" for line in lines)
    bullets = [f"{what} Give it an image that is prepared so:\n\n  ```python\n{code}  ```\n", *others, DECODE]
    return text + "".join(f"- {bullet}\n" for bullet in bullets)


def _training(facts: Facts) -> str:
    tower = facts.origin or facts.tower_source or "fresh weights"
    language = f"{facts.origin or facts.language_source or 'fresh'} ({facts.language})"
    libraries = ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    data = EMBEDDED if facts.data == "embedded" else f"`{facts.data}`"
    rows = {
        "recipe": f"`{facts.recipe}`",
        "method": facts.method,
        "stages": f"{', '.join(map(str, facts.stages))}; {facts.steps:,} steps in all; "
        + ("stage 3 trains the tower" if facts.trains_tower else "**none trains the tower**, which is as it began"),
        "seed": str(facts.seed),
        "tower from": tower,
        "language model": language,
        "data": f"{data}; fingerprint {facts.data_fingerprint or 'unknown'}",
        "written by": f"{libraries}; commit {facts.commit or 'unknown, not run from a git checkout'}",
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    text = f"## Training\n\n| | |\n|---|---|\n{table}"
    return text + (f"\nThis command trains the same:\n\n```\n{facts.command}\n```\n" if facts.command else "")


def _losses(facts: Facts) -> str:
    if not facts.losses:
        return "No held-out loss was recorded at the end of the run.\n"
    rows = "".join(
        f"| {loss.split.replace('_', ' ')} | {loss.pairs} | {loss.right:.3f} | {loss.wrong:.3f} |\n"
        for loss in facts.losses
    )
    return (
        "Caption losses on pairs that were not trained on, nats a token, with each caption's own image and with "
        "another one:\n\n| held out | pairs | own image | another image |\n|---|---|---|---|\n" + rows
    )


def _licence(facts: Facts) -> str:
    bound = [f"the weights that it started from ({facts.tower_source})"] if facts.tower_source else []
    bound.append("its images and captions")
    return (
        "## Licence\n\nNobody has chosen one yet, so the header says `unknown`. Whoever publishes these weights "
        f"replaces that line. The terms of {' and of '.join(bound)} may bind the choice. HIVE's own code is "
        "Apache-2.0.\n"
    )
