"""Rewrites of a model that make an operator fit for the low type instead of giving it up.

`find_all` decides on a core Graph, and a front end's `rewrite` makes the repairs. In float32 the
model's answers stay what they were.
"""

from ampconvert.repairs.find import declined_all as declined_all
from ampconvert.repairs.find import find_all as find_all
from ampconvert.repairs.repair import Declined as Declined
from ampconvert.repairs.repair import Repair as Repair
