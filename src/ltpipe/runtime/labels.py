"""Names with named settings: `wanda@few` is the criterion wanda scored with the settings few.

Artefacts, metrics and tables carry such a label wherever they carry a name, so that cells of one study that differ in
settings alone never meet.
"""

_BEFORE_SETTINGS = "@"


def labelled(name: str, settings: str) -> str:
    """Return a name with settings; the name alone if the settings have no name."""
    return f"{name}{_BEFORE_SETTINGS}{settings}" if settings else name


def name_of(label: str) -> str:
    """Return the name in a label."""
    return label.partition(_BEFORE_SETTINGS)[0]


def settings_of(label: str) -> str:
    """Return the settings in a label; empty if it has none."""
    return label.partition(_BEFORE_SETTINGS)[2]
