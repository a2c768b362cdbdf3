"""The map of cells, for any page: `draw_map` shows cells as points, by WebGL or the processor, and tells what was drawn around.

    draw_map("map", CellMap(xy, Categories("Context", names, codes, colours)), on_pick=keep)

Places go to the browser once, new colours as a list of codes, and of a selection only its corners come back; which cells lie within is found
here (`inside`). Maps with the same `link` move together. The component is in assets/map, which says how it is built.
"""

from pages.parts.cellmap.colours import Categories, Values
from pages.parts.cellmap.packet import Arrows, CellMap
from pages.parts.cellmap.polygon import inside
from pages.parts.cellmap.show import Pick, draw_map, show_map

__all__ = ["Arrows", "Categories", "CellMap", "Pick", "Values", "draw_map", "inside", "show_map"]
