"""The views of the page Compare, each in a module of its own: what it shows, and the boxes of what is chosen in it."""

from studio.compare_views.ablations import ABLATIONS
from studio.compare_views.changes import CHANGES
from studio.compare_views.confusion import CONFUSION
from studio.compare_views.curves import PLOTS
from studio.compare_views.images import IMAGES
from studio.compare_views.metrics import METRICS

VIEWS = {view.name: view for view in (METRICS, PLOTS, CONFUSION, CHANGES, IMAGES, ABLATIONS)}

__all__ = ["ABLATIONS", "METRICS", "VIEWS"]
