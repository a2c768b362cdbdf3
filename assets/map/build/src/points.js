// The places of cells, which are sent once, and the library that draws them. Maps (../view.js) find both here; those that came before
// wait in `waiting`.
import { unpack } from "./packet.js";
import { CellMap } from "./map.js";

const shared = (globalThis.stateExplorerMaps ??= { points: new Map(), waiting: new Set(), maps: new Set() });
shared.holders ??= new WeakMap();
shared.CellMap ??= CellMap;
shared.unpack ??= unpack;

export default function ({ parentElement, data }) {
  const { header, arrays } = unpack(data);
  const before = shared.holders.get(parentElement);
  if (before !== header.id) {
    const known = shared.points.get(header.id);
    shared.points.set(header.id, known ? { ...known, users: known.users + 1 } : { ...header, ...arrays, users: 1 });
    if (before) leave(before);
    shared.holders.set(parentElement, header.id);
  }
  for (const go of [...shared.waiting]) go();
  return () => {
    const id = shared.holders.get(parentElement);
    shared.holders.delete(parentElement);
    if (id) leave(id);
  };
}

function leave(id) {
  const known = shared.points.get(id);
  if (!known) return;
  known.users -= 1;
  if (known.users <= 0) shared.points.delete(id);
}
