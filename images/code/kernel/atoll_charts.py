"""What a figure of matplotlib shows, as data: lines, points, bars, wedges, boxes. Loaded before matplotlib, which is only used
when there is a figure."""

import datetime
import functools
import math
import re

# `Price (USD)` or `Price [USD]`
UNIT = re.compile(r"\s\(([^)]*)\)|\[([^\]]*)\]")
# Where an axes keeps what its boxes were drawn from.
BOXES = "_atoll_boxes"


def watch(axes_class):
    """Keeps the numbers of box plots: what is drawn of them is lines like any others."""
    draw = axes_class.bxp

    @functools.wraps(draw)
    def bxp(self, bxpstats, positions=None, *args, **kwargs):
        stats = list(bxpstats)
        drawn = draw(self, stats, positions, *args, **kwargs)
        lying = kwargs.get("vert") is False or kwargs.get("orientation") == "horizontal"
        places = list(positions) if positions is not None else range(1, len(stats) + 1)
        boxes = list(zip(places, stats, drawn["medians"]))
        setattr(self, BOXES, [*getattr(self, BOXES, []), (lying, boxes)])
        return drawn

    axes_class.bxp = bxp


def chart(figure):
    """The data of a figure; None of one that shows nothing."""
    every = figure.get_axes()
    if not any(axes.has_data() for axes in every):
        return None
    if len(every) == 1:
        return of_axes(every[0])
    title = getattr(figure, "_suptitle", None)
    title = title.get_text() if title is not None else ""
    return {"type": "superchart", "title": title or None, "elements": [of_axes(axes) for axes in every]}


def of_axes(axes):
    """The data of one system of axes."""
    boxes = boxes_of(axes)
    if boxes:
        return box_chart(axes, boxes)
    kind = kind_of(axes)
    make = {"line": line_chart, "scatter": scatter_chart, "bar": bar_chart, "pie": pie_chart}.get(kind)
    return make(axes) if make else {"type": "unknown", "title": title_of(axes), "elements": []}


def kind_of(axes):
    """Which chart it is: there is one kind of thing in it, but for lines of a grid."""
    from matplotlib.collections import PathCollection
    from matplotlib.patches import Rectangle, Wedge

    lines, patches, collections = list(axes.lines), list(axes.patches), list(axes.collections)
    if axes.images or axes.artists or axes.tables:
        return "unknown"
    if not patches and not collections:
        return "line"
    if not all(is_grid(line) for line in lines):
        return "unknown"
    if not patches and all(isinstance(it, PathCollection) for it in collections):
        return "scatter"
    for kind, shape in (("pie", Wedge), ("bar", Rectangle)):
        if not collections and all(isinstance(it, shape) for it in patches):
            return kind
    return "unknown"


def is_grid(line):
    """Whether a line goes from one side straight to the other."""
    xs, ys = line.get_xdata(), line.get_ydata()
    return len(xs) == len(ys) == 2 and (xs[0] == xs[1] or ys[0] == ys[1])


def title_of(axes):
    """None where there is none."""
    return axes.get_title() or None


def planar(kind, axes, swapped=False):
    """What charts with two axes have in common. Where the categories are on y, x and y change places."""
    labels = [axes.get_xlabel() or None, axes.get_ylabel() or None]
    if swapped:
        labels.reverse()
    units = [unit(label) for label in labels]
    return {
        "type": kind,
        "title": title_of(axes),
        "elements": [],
        "x_label": labels[0],
        "y_label": labels[1],
        "x_unit": units[0],
        "y_unit": units[1],
    }


def unit(label):
    """What is in brackets."""
    found = UNIT.search(label or "")
    return (found.group(1) or found.group(2)) if found else None


def points(kind, axes):
    """What charts of points have in common: the ticks and scales of both axes."""
    made = planar(kind, axes)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        dates = is_dates(axis)
        ticks = [tick_of(tick, dates) for tick in axis.get_ticklocs()]
        made[f"{name}_ticks"], made[f"{name}_tick_labels"] = ticks, labels
        made[f"{name}_scale"] = scale(axis, dates, ticks, labels)
    return made


def converter(axis):
    """What makes numbers of the values of an axis."""
    return axis.get_converter() if hasattr(axis, "get_converter") else axis.converter


def is_dates(axis):
    """Whether an axis shows times."""
    return "Date" in type(converter(axis)).__name__


def tick_of(tick, dates):
    """Where a tick is."""
    if dates:
        from matplotlib.dates import num2date

        return num2date(tick).isoformat()
    return value(tick)


def scale(axis, dates, ticks, labels):
    """The name of an axis' scale."""
    if dates:
        return "datetime"
    if axis.get_scale() != "linear":
        return axis.get_scale()
    if "Category" in type(converter(axis)).__name__:
        return "categorical"
    named = [tick == number and not is_number(label) for number, (tick, label) in enumerate(zip(ticks, labels))]
    return "categorical" if named and all(named) else "linear"


def is_number(text):
    """Whether a label is the tick's own number, which may have the long minus of typography, or nothing."""
    try:
        return not text or math.isfinite(float(text.replace("\N{MINUS SIGN}", "-")))
    except ValueError:
        return False


def value(it):
    """As JSON can have it: a number, a text, a time as ISO 8601 has it. What is no number becomes null."""
    if hasattr(it, "isoformat"):
        return it.isoformat()
    if type(it).__name__ == "datetime64":
        return str(it.astype("datetime64[s]"))
    if it is None or isinstance(it, (str, bool)):
        return it if it is None or isinstance(it, bool) else str(it)
    if isinstance(it, datetime.timedelta):
        return it.total_seconds()
    try:
        number = float(it)
    except (TypeError, ValueError):
        return str(it)
    return number if math.isfinite(number) else None


def line_chart(axes):
    """Each line with its points."""
    made = points("line", axes)
    for line in axes.lines:
        if is_grid(line):
            continue
        pairs = [[value(x), value(y)] for x, y in zip(line.get_xdata(), line.get_ydata())]
        made["elements"].append({"label": named(line, "_child", "Line"), "points": pairs})
    return made


def scatter_chart(axes):
    """Each group of points."""
    made = points("scatter", axes)
    for group in axes.collections:
        pairs = [[value(x), value(y)] for x, y in group.get_offsets()]
        made["elements"].append({"label": group.get_label(), "points": pairs})
    return made


def named(artist, prefix, kind):
    """An artist's label; one that nobody gave is its kind and number."""
    label = str(artist.get_label())
    return f"{kind} {label[len(prefix):]}" if label.startswith(prefix) else label


def bar_chart(axes):
    """Each bar with its value and the label of where it stands."""
    groups = [it for it in axes.containers if getattr(it, "patches", None)]
    lying = bool(groups) and all(getattr(it, "orientation", "vertical") == "horizontal" for it in groups)
    made = planar("bar", axes, swapped=lying)
    axis = axes.yaxis if lying else axes.xaxis
    for group in groups:
        name = named(group, "_container", "Group")
        for bar in group.patches:
            start, width, size = (
                (bar.get_y(), bar.get_height(), bar.get_width())
                if lying
                else (bar.get_x(), bar.get_width(), bar.get_height())
            )
            label = label_at(axis, start + width / 2, abs(width))
            made["elements"].append({"label": label, "group": name, "value": value(size)})
    return made


def label_at(axis, place, within):
    """The label of the nearest tick, if it is near enough; else the place itself."""
    ticks = [(abs(tick - place), label.get_text()) for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels())]
    distance, text = min(ticks, default=(math.inf, ""))
    named_axis = not all(is_number(text) for _, text in ticks)
    # Bars of several groups stand beside the tick that they belong to.
    near = distance <= (0.5 if named_axis else min(within * 1e-6, 0.5))
    return text if near and text else f"{place:g}"


def pie_chart(axes):
    """Each wedge."""
    wedges = [
        {"label": it.get_label(), "angle": abs(round(float(it.theta2 - it.theta1), 4)), "radius": float(it.r)}
        for it in axes.patches
    ]
    return {"type": "pie", "title": title_of(axes), "elements": wedges}


def boxes_of(axes):
    """The box plots that are still there: whether they lie, and their boxes."""
    kept = getattr(axes, BOXES, [])
    return [(lying, boxes) for lying, boxes in kept if boxes and boxes[0][2].axes is axes]


def box_chart(axes, plots):
    """Each box with its whiskers and what lies outside."""
    lying = plots[0][0]
    made = planar("box_and_whisker", axes, swapped=lying)
    axis = axes.yaxis if lying else axes.xaxis
    for _, boxes in plots:
        told = [box(axis, place, stats) for place, stats, _ in boxes]
        # Who draws the same again, to have it in colour, sees it once.
        made["elements"] += [it for it in told if it not in made["elements"]]
    return made


def box(axis, place, stats):
    """One box."""
    number = functools.partial(round, ndigits=8)
    return {
        "label": label_at(axis, place, 1.0),
        "min": number(float(stats["whislo"])),
        "first_quartile": number(float(stats["q1"])),
        "median": number(float(stats["med"])),
        "third_quartile": number(float(stats["q3"])),
        "max": number(float(stats["whishi"])),
        "outliers": [number(float(it)) for it in stats.get("fliers", [])],
    }
