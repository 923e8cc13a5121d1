"""Which hidden states of the tower are read, and at which depths of the language model."""

from hive.errors import UserError


def group_ends(layers: int, groups: int) -> tuple[int, ...]:
    """Last index of each of `groups` consecutive runs that divide `range(layers)`; earlier runs share the remainder.

    24 layers in 6 groups end at 3, 7, 11, 15, 19, 23 and 32 layers at 5, 11, 16, 21, 26, 31: the uniform selection of
    the paper's section 3.2 and the depths of the authors' released models (30, 32, 40 and 54 layers).
    """
    assert 0 < groups <= layers
    size, longer = divmod(layers, groups)
    ends: list[int] = []
    for group in range(groups):
        ends.append((ends[-1] if ends else -1) + size + (group < longer))
    return tuple(ends)


def select_hidden_states(selection: str, density: float, layers: int) -> tuple[int, ...]:
    """Indices of the hidden states that are read: 0 = embeddings, k = output of layer k of `layers`.

    "uniform" spreads round(density * layers) of them over the depth; "later" takes as many up to the last but one
    (17..22 of 24, section 4.5 for SigLIP); otherwise `selection` is a list of indices such as "3,7,11". Raises
    `UserError` for a list that isn't rising or leaves the range.
    """
    count = max(1, round(density * layers))
    if selection == "uniform":
        return group_ends(layers, count)
    if selection == "later":
        return tuple(range(max(0, layers - 1 - count), layers - 1)) or (0,)
    return _indices(selection, "--vision.selection", '"uniform", "later" or indices', layers)


def align_depths(depths: str, groups: int, layers: int) -> tuple[int, ...]:
    """Decoder layers (0-based) that read the `groups` selected hidden states, in order, before their own attention.

    "aligned" spreads them over the depth as `group_ends` does; otherwise `depths` is a list of indices. Raises
    `UserError` if there are fewer layers than groups, or not one valid index for each group.
    """
    if depths == "aligned":
        if groups > layers:
            raise UserError(
                f"{groups} hidden states are selected, but the language model has only {layers} layers to "
                "read them: lower --vision.density or give fewer indices in --vision.selection."
            )
        return group_ends(layers, groups)
    indices = _indices(depths, "--depths", '"aligned" or indices', layers - 1)
    if len(indices) != groups:
        raise UserError(f"--depths names {len(indices)} layers for {groups} selected hidden states: give one each.")
    return indices


def _indices(text: str, flag: str, allowed: str, largest: int) -> tuple[int, ...]:
    try:
        indices = tuple(int(part) for part in text.split(","))
    except ValueError:
        indices = ()
    if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] > largest:
        raise UserError(
            f'{flag} is "{text}", but it must be {allowed} rising from 0 to {largest} at most, such as "1,3".'
        )
    return indices
