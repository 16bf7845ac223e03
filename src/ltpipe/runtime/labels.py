"""Names with named settings and recoveries: of `wanda@few+lora`, wanda scored with settings few, lora trained tickets.

Artefacts, metrics and tables carry such a label wherever they carry a name, so that cells of one study that differ in
settings or recovery alone never meet.
"""

_BEFORE_SETTINGS, _BEFORE_RECOVERY = "@", "+"


def labelled(name: str, settings: str) -> str:
    """Return a name with settings; the name alone if the settings have no name."""
    return f"{name}{_BEFORE_SETTINGS}{settings}" if settings else name


def recovered(label: str, recovery: str) -> str:
    """Return the label of a criterion whose tickets a recovery trained; the label itself without a recovery."""
    return f"{label}{_BEFORE_RECOVERY}{recovery}" if recovery else label


def name_of(label: str) -> str:
    """Return the name in a label."""
    return pruned_by(label).partition(_BEFORE_SETTINGS)[0]


def settings_of(label: str) -> str:
    """Return the settings in a label; empty if it has none."""
    return pruned_by(label).partition(_BEFORE_SETTINGS)[2]


def recovery_of(label: str) -> str:
    """Return the recovery in a label; empty if it has none."""
    return label.partition(_BEFORE_RECOVERY)[2]


def pruned_by(label: str) -> str:
    """Return a label without its recovery: that of the masks."""
    return label.partition(_BEFORE_RECOVERY)[0]
