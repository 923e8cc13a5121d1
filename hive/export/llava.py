"""The tower for the code of LLaVA and LLaVA-NeXT, which chooses a class by words in the path and reads one layer less.

haotian-liu/LLaVA (llava/model/multimodal_encoder) loads CLIP alone and reads the hidden state -2 of it
(--mm_vision_select_layer -2). LLaVA-VL/LLaVA-NeXT takes CLIP where the path has "clip" in it, or else SigLIP where it
has "siglip"; of SigLIP it deletes the last layer and reads what is then the last hidden state. So the tower is written
with one layer more than was trained, which gives its input: the hidden states -1 and -2 are both the deepest trained
one.
"""

from pathlib import Path

from transformers import PreTrainedModel

from hive.data.images import ImageSpec
from hive.errors import UserError
from hive.export.card import Form, trained_output, write_card
from hive.export.facts import Facts
from hive.export.place import replacing
from hive.export.tower import compare, ending_at, seal_tower, write_settings
from hive.model.families import tower_family

NEXT_SIGLIP = {"image_size": 384, "patch_size": 14, "hidden_size": 1152}
"""The shape of SigLIP that LLaVA-NeXT's code has fixed in its processor, a configuration and an assertion."""


def check_path(folder: Path, family: str) -> None:
    """Raises `UserError` for a path by whose words LLaVA's code would not choose the family's class."""
    path = str(folder.absolute())
    if family not in path:
        raise UserError(
            f"--out {folder} has no \"{family}\" in its path, by which LLaVA's code chooses the tower's class: give "
            f"a folder with that word, such as {folder.with_name(f'{folder.name}-{family}')}."
        )
    if family != "clip" and "clip" in path:
        raise UserError(
            f'--out {folder} has "clip" in its path, by which LLaVA-NeXT\'s code would take CLIP for this {family} '
            "tower: give a folder without that word in its path."
        )


def export_llava(tower: PreTrainedModel, folder: Path, spec: ImageSpec, facts: Facts) -> None:
    """Writes the tower with one layer more, which does nothing, for LLaVA's code; loaded back and compared.

    Raises `UserError` where `folder` has the wrong words in its path, or holds something else.
    """
    check_path(folder, tower_family(tower).name)
    form = ending_at(tower, facts.deepest, layers=facts.deepest + 1)
    with replacing(folder, "The tower for LLaVA") as temporary:
        write_settings(form, temporary, spec)
        write_card(temporary, facts, form, _form(form, facts))
        seal_tower(form, temporary, facts)
        compare(form, temporary)


def _form(tower: PreTrainedModel, facts: Facts) -> Form:
    family = tower_family(tower).name
    code = "# LLaVA's and LLaVA-NeXT's training scripts\n--vision_tower FOLDER --mm_vision_select_layer -2"
    outputs = {
        "hidden_states[-2], hidden_states[-1]": f"{trained_output(facts)}: the last layer gives its input, because "
        "LLaVA's code does not read it",
    }
    remarks = [
        f'LLaVA\'s code chooses the class of a tower by words in its path. This one needs "{family}" in it'
        + ("." if family == "clip" else ', and no "clip": LLaVA-NeXT asks for that first.'),
    ]
    if family != "clip":
        wanted = ", ".join(f"{name} {value}" for name, value in NEXT_SIGLIP.items())
        remarks.append("haotian-liu/LLaVA loads CLIP alone. LLaVA-NeXT loads this SigLIP.")
        if any(getattr(tower.config, name) != value for name, value in NEXT_SIGLIP.items()):
            remarks.append(
                f"The tower's shape is not {wanted}, which LLaVA-NeXT's siglip_encoder.py has fixed in its processor, "
                "its configuration and an assertion: change these three there."
            )
    return Form("transformers", code, outputs, remarks, language="")
