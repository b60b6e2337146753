"""What Python's kernel shows beyond what IPython does by itself: tables and charts as data, lists and dictionaries as JSON, images
where they are shown or saved. And variables of the environment that are there for one execution."""

import datetime
import importlib.abc
import importlib.util
import json
import math
import os
import sys

import atoll_charts
from IPython.core.formatters import BaseFormatter, JSONFormatter
from IPython.display import display
from traitlets import ObjectName, Unicode

# The class of matplotlib's figures.
FIGURE = ("matplotlib.figure", "Figure")
# What variables were before the executions that they were set for; None where they were not there.
_kept = []


def push(env):
    """Sets variables until `pop`."""
    _kept.append({name: os.environ.get(name) for name in env})
    os.environ.update(env)


def pop():
    """Gives variables back what they were."""
    for name, value in (_kept.pop() if _kept else {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class DataFormatter(BaseFormatter):
    """Tables as lists by column."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict, str)


class ChartFormatter(BaseFormatter):
    """Figures as what they show."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict, str)

    def __call__(self, obj):
        """Looks at the class itself: matplotlib takes its figures out of every list of types."""
        if any((kind.__module__, kind.__name__) == FIGURE for kind in type(obj).__mro__):
            return figure_data(obj)
        return super().__call__(obj)


class ListsFormatter(JSONFormatter):
    """Lists and dictionaries as JSON, where JSON can have all that is in them."""

    def __call__(self, obj):
        if not isinstance(obj, (list, dict)):
            return super().__call__(obj)
        try:
            return as_json(obj)
        except (TypeError, RecursionError):
            return None


def as_json(it):
    """The same with nothing but what JSON has. What it has nothing for is a TypeError."""
    if isinstance(it, dict):
        return {name_in_json(name): as_json(each) for name, each in it.items()}
    if isinstance(it, (list, tuple)):
        return [as_json(each) for each in it]
    if type(it).__module__ == "numpy" and hasattr(it, "tolist"):
        return as_json(it.tolist())
    plain_kinds = (bool, int, float, str, datetime.date, datetime.time)
    if it is None or isinstance(it, plain_kinds):
        return plain(it)
    raise TypeError(type(it).__name__)


def name_in_json(name):
    """The name of a dictionary's entry."""
    name = as_json(name)
    if isinstance(name, (dict, list)):
        raise TypeError("a name of several parts")
    return name if isinstance(name, str) else json.dumps(name)


def table(frame):
    """A DataFrame's columns, each a list that JSON can have."""
    return {str(name): [plain(it) for it in column] for name, column in frame.to_dict(orient="list").items()}


def plain(it):
    """A value of a table as JSON can have it."""
    if it is None or isinstance(it, (bool, str)) or type(it) is int:
        return it
    if isinstance(it, float):
        return float(it) if math.isfinite(it) else None
    if it != it:  # not a time, or any other that is not there
        return None
    if hasattr(it, "isoformat"):
        return it.isoformat()
    if hasattr(it, "item"):
        return plain(it.item())
    return plain_inside(it)


def plain_inside(it):
    """What a cell of a table may hold beside single values."""
    if isinstance(it, (list, tuple, set)):
        return [plain(each) for each in it]
    if isinstance(it, dict):
        return {str(name): plain(each) for name, each in it.items()}
    return str(it)


def figure_data(figure):
    """A figure's data; none where it cannot be told: the picture is shown all the same."""
    try:
        return atoll_charts.chart(figure)
    except Exception:
        return None


def install(shell):
    """Makes a kernel's shell ready."""
    formatters = shell.display_formatter.formatters
    data = formatters["e2b/data"] = DataFormatter(parent=shell.display_formatter)
    # The second is where the class says that it is since pandas 3.
    for module in ("pandas.core.frame", "pandas"):
        data.for_type_by_name(module, "DataFrame", table)
    formatters["e2b/chart"] = ChartFormatter(parent=shell.display_formatter)
    formatters["application/json"] = ListsFormatter(parent=shell.display_formatter)
    sys.meta_path.insert(0, AfterImport({"matplotlib.axes._axes": _axes, "PIL.Image": _image}))


def _axes(module):
    atoll_charts.watch(module.Axes)


def _image(module):
    """There is no window to show an image in: it is a result. One that is saved under a name is shown, too."""
    save = module.Image.save

    def saved(self, fp, *args, **kwargs):
        if isinstance(fp, (str, os.PathLike)):
            display(self)
        return save(self, fp, *args, **kwargs)

    module.Image.save = saved
    module.Image.show = lambda self, *args, **kwargs: display(self)


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls back with a module when it has been loaded, once."""

    def __init__(self, then):
        self._then = then

    def find_spec(self, name, path=None, target=None):
        """Everybody else finds it; its loader is made to call back."""
        then = self._then.pop(name, None)
        if then is None:
            return None
        found = importlib.util.find_spec(name)
        if found is not None and found.loader is not None:
            execute = found.loader.exec_module

            def exec_module(module):
                execute(module)
                then(module)

            found.loader.exec_module = exec_module
        return found
