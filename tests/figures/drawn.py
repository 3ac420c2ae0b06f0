"""What can be read off a figure that was drawn: labels, notes, lines, hollow points."""

from matplotlib.figure import Figure


def labels(figure: Figure) -> list[str]:
    return [label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]]


def notes(figure: Figure) -> str:
    return " ".join(axis.get_xlabel() for axis in figure.axes)


def line(axis, label: str):
    handles, names = axis.get_legend_handles_labels()
    return handles[names.index(label)]


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def hollow(axis) -> list[tuple[float, float]]:
    marks = [one for one in axis.lines if one.get_markerfacecolor() == "white"]
    return [point for one in marks for point in zip(one.get_xdata(), one.get_ydata(), strict=True)]
