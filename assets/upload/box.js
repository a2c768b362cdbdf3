// The uploader: slices files, sends the pieces one after another, shows how far they are, and goes on after an interruption.
// One box is kept for each place on a page; Streamlit calls the function below again with new data (a new token) whenever the page runs.
const PIECE = 8 * 1024 * 1024;
const WAITS = [1, 2, 4, 8, 15, 30]; // seconds before another try
const boxes = new WeakMap();

export default function ({ parentElement, data, setTriggerValue }) {
  let box = boxes.get(parentElement);
  if (!box) {
    box = { rows: new Map(), queue: Promise.resolve(), closed: false };
    boxes.set(parentElement, box);
    build(box, parentElement);
  }
  box.data = data;
  box.token = data.token;
  box.tell = setTriggerValue;
  parentElement.querySelector(".words").textContent = data.words;
  parentElement.querySelector(".folder").hidden = !data.folders;
  parentElement.querySelector(".pick-files").accept = data.endings.join(",");
  box.waiters?.forEach((go) => go());
  box.waiters = [];
  return () => {
    box.closed = true;
    boxes.delete(parentElement);
  };
}

function build(box, root) {
  const drop = root.querySelector(".drop"), files = root.querySelector(".pick-files"), folder = root.querySelector(".pick-folder");
  root.querySelector(".files").onclick = () => files.click();
  root.querySelector(".folder").onclick = () => folder.click();
  for (const input of [files, folder])
    input.onchange = () => {
      add(box, root, [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
      input.value = "";
    };
  drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const found = [];
    for (const entry of entries) await walk(entry, found);
    add(box, root, found);
  };
}

// all files of a dropped file or folder, with their paths
async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    found.push({ file, path: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return;
    for (const one of some) await walk(one, found);
  }
}

// Files with a known ending go one by one. A folder that is itself a data set (a zarr store, a 10x matrix) goes as one tar, whose
// parts are read only when they are sent.
function add(box, root, found) {
  const tops = new Map();
  for (const one of found) {
    const top = one.path.includes("/") ? one.path.split("/")[0] : "";
    tops.set(top, [...(tops.get(top) || []), one]);
  }
  for (const [top, inside] of tops) {
    const whole = top && box.data.folders && inside.some((one) => box.data.marks.includes(one.path.split("/").pop()));
    const chosen = inside.filter((one) => !top || box.data.endings.some((end) => one.path.toLowerCase().endsWith(end)));
    if (whole) {
      const newest = Math.max(...inside.map((one) => one.file.lastModified));
      start(box, root, `${top}.folder.tar`, top, archive(inside), newest);
    } else if (chosen.length) {
      for (const { file } of chosen) start(box, root, file.name, file.name, file, file.lastModified);
    } else start(box, root, top, top, null, 0);
  }
}

function archive(inside) {
  const parts = [];
  for (const { file, path } of [...inside].sort((a, b) => (a.path < b.path ? -1 : 1))) {
    parts.push(...header(path, file.size), file, new Uint8Array((512 - (file.size % 512)) % 512));
  }
  return new Blob([...parts, new Uint8Array(1024)]);
}

// of one file in a tar (ustar), with a record before it where its path is long or not plain
function header(path, size) {
  const bytes = new TextEncoder().encode(path);
  if (bytes.length < 100) return [block(bytes, size, "0")];
  const long = new Uint8Array(Math.ceil((bytes.length + 1) / 512) * 512);
  long.set(bytes);
  return [block(new TextEncoder().encode("././@LongLink"), bytes.length + 1, "L"), long, block(bytes.slice(0, 99), size, "0")];
}

function block(name, size, kind) {
  const out = new Uint8Array(512), text = (value, at) => out.set(new TextEncoder().encode(value), at);
  out.set(name, 0);
  text("0000644\0" + "0000000\0" + "0000000\0", 100);
  if (size < 8 ** 11) text(size.toString(8).padStart(11, "0") + "\0", 124);
  else { // sizes above 8 GB are written as a number
    out[124] = 0x80;
    for (let i = 0, left = size; i < 8; i++, left = Math.floor(left / 256)) out[135 - i] = left % 256;
  }
  text("00000000000\0" + "        " + kind, 136);
  text("ustar\0" + "00", 257);
  text(out.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0") + "\0 ", 148);
  return out;
}

// the same file, chosen again, gets the same id, so that it goes on; no secret
function identity(text) {
  const hash = (seed) => {
    let a = 0xdeadbeef ^ seed, b = 0x41c6ce57 ^ seed;
    for (const char of text) {
      const code = char.codePointAt(0);
      a = Math.imul(a ^ code, 2654435761);
      b = Math.imul(b ^ code, 1597334677);
    }
    a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
    b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
    return [a, b].map((n) => (n >>> 0).toString(16).padStart(8, "0")).join("");
  };
  return hash(1) + hash(2);
}

function start(box, root, name, shown, blob, changed) {
  const id = identity(JSON.stringify([name, blob ? blob.size : 0, changed, box.data.box]));
  if (box.rows.has(id)) return;
  const item = document.createElement("li");
  item.innerHTML = '<span class="name"></span><button type="button" class="pause">Pause</button>' +
    '<button type="button" class="stop">Cancel</button><progress max="1" value="0"></progress><span class="note">Waiting</span>';
  const at = (part) => item.querySelector(part);
  at(".name").textContent = at(".name").title = shown;
  const row = { id, name, blob, item, at, paused: false, stopped: false, note: (text, wrong) => {
    at(".note").textContent = text;
    at(".note").classList.toggle("wrong", !!wrong);
  } };
  root.querySelector(".rows").append(item);
  box.rows.set(id, row);
  at(".pause").onclick = () => {
    row.paused = !row.paused;
    at(".pause").textContent = row.paused ? "Go on" : "Pause";
    if (row.paused) row.note(`Paused at ${bytes(row.sent || 0)}`);
    else row.wake?.();
  };
  at(".stop").onclick = () => {
    row.stopped = true;
    row.abort?.abort();
    row.wake?.();
    if (row.over) leave(box, row);
  };
  if (!blob || !blob.size || blob.size > box.data.most) {
    const why = blob && !blob.size ? "It is empty." : blob ? `It has ${bytes(blob.size)}; up to ${bytes(box.data.most)} are accepted.` : `No file in it ends with ${box.data.endings.join(", ")}.`;
    return refuse(row, why);
  }
  box.pending = (box.pending || 0) + 1;
  box.queue = box.queue
    .then(() => send(box, row))
    .catch((error) => refuse(row, String(error)))
    .finally(() => {
      box.pending--;
      if (!box.pending && !row.there) box.tell("arrived", row.id); // those before it are there
    });
}

function refuse(row, why) {
  row.over = true;
  row.note(why, true);
  row.at(".pause").hidden = true;
  row.at(".stop").textContent = "Dismiss";
}

function leave(box, row) {
  row.item.remove();
  box.rows.delete(row.id);
}

async function send(box, row) {
  const size = row.blob.size, began = performance.now();
  let first = null, tries = 0, there = null;
  row.sent = 0;
  while (!box.closed) {
    if (row.stopped) {
      await call(box, row, "DELETE", "").catch(() => null);
      return leave(box, row);
    }
    if (row.paused) {
      await new Promise((go) => (row.wake = go));
      there = null; // another one may have gone on with it
      continue;
    }
    let answer = null;
    try {
      if (there === null) answer = await call(box, row, "HEAD", "");
      else {
        const piece = await row.blob.slice(there, there + PIECE).arrayBuffer();
        const query = new URLSearchParams({ name: row.name, size, offset: there });
        answer = await call(box, row, "PUT", `?${query}`, piece);
      }
    } catch (error) {
      if (error.name === "NotReadableError" || error.name === "NotFoundError") return refuse(row, "The file was changed or moved. Choose it again.");
      answer = null; // no connection
    }
    if (answer && (answer.ok || answer.status === 409)) {
      tries = 0;
      there = row.sent = answer.headers.has("Upload-Offset") ? Number(answer.headers.get("Upload-Offset")) : (await answer.json()).offset;
      first ??= there;
      row.at("progress").value = size ? there / size : 1;
      const seconds = (performance.now() - began) / 1000, rate = (there - first) / seconds;
      const left = rate > 0 && there < size ? `, about ${time((size - there) / rate)} left` : "";
      if (!row.paused) row.note(`${bytes(there)} of ${bytes(size)}${left}`);
      if (there === size) {
        row.note("Reading the file");
        row.at(".pause").hidden = row.at(".stop").hidden = true;
        row.there = true;
        leaveSoon(box, row);
        return;
      }
      if (answer.status === 409) await new Promise((go) => setTimeout(go, 500)); // another tab sends it, too
      continue;
    }
    if (answer && answer.status === 401) await renewed(box);
    else if (answer && answer.status < 500 && answer.status !== 422 && answer.status !== 429) return refuse(row, await words(answer));
    else if (answer && (answer.status === 507 || tries > 3)) return refuse(row, await words(answer));
    if (row.stopped) continue;
    const wait = WAITS[Math.min(tries++, WAITS.length - 1)];
    row.note(`Interrupted at ${bytes(row.sent)}; it goes on by itself`);
    await new Promise((go) => { row.wake = go; setTimeout(go, wait * 1000); });
    there = null;
  }
}

function leaveSoon(box, row) {
  if (box.pending === 1) box.tell("arrived", row.id); // the last one: the page runs again, which would stop it reading the others
  setTimeout(() => leave(box, row), 1500);
}

// the page runs again and brings a new token
function renewed(box) {
  return new Promise((go) => {
    box.waiters.push(go);
    box.tell("asked", Date.now());
    setTimeout(go, 5000);
  });
}

async function call(box, row, method, query, body) {
  const headers = { "X-Upload-Token": box.token };
  if (body && crypto.subtle) { // only where the page came by https or from this machine
    const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", body));
    headers["X-Piece-Sha256"] = [...sum].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  row.abort = new AbortController();
  const answer = await fetch(`${box.data.address}${row.id}${query}`, { method, headers, body, signal: row.abort.signal });
  box.token = answer.headers.get("X-Upload-Token") || box.token;
  return answer;
}

async function words(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

const bytes = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(0)} MB` : `${Math.ceil(n / 1e3)} kB`);
const time = (s) => (s >= 90 ? `${Math.round(s / 60)} min` : `${Math.max(1, Math.round(s))} s`);
