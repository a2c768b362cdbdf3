// One map. What draws it comes with the places of its cells (map.js); until those are there, it waits.
const shared = (globalThis.stateExplorerMaps ??= { points: new Map(), waiting: new Set(), maps: new Set() });
const shown = (shared.shown ??= new WeakMap());

export default function ({ parentElement, data, setTriggerValue }) {
  const place = parentElement.querySelector(".map");
  const one = shown.get(parentElement) ?? {};
  shown.set(parentElement, one);
  shared.waiting.delete(one.go);
  one.go = () => {
    if (!shared.CellMap) return;
    const { header, arrays } = shared.unpack(data);
    const points = shared.points.get(header.points);
    if (!points) return;
    shared.waiting.delete(one.go);
    one.map ??= new shared.CellMap(place, shared);
    one.map.tell = setTriggerValue;
    one.map.show(points, header, arrays);
  };
  shared.waiting.add(one.go);
  one.go();
  return () => {
    shared.waiting.delete(one.go);
    one.map?.close();
    shown.delete(parentElement);
  };
}
