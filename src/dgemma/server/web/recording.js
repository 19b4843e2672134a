// A run, as it was told: every step as its differences to the one before, and a cursor that plays them to any step.
// Knows no element. A frame is one step of one row; the candidates of an infill are rows that settle side by side.
// Trap: differences are to the last step told of the same row and canvas, so a cursor that goes back begins at its canvas's first.

const NOISE_NATS = 1.0; // entropy above which a guess is noise: about three equally likely tokens, as on the command line

export class Recording {
  constructor(task, filler) {
    this.task = task;
    this.filler = new Set(filler); // ids that stand for no text: padding and ends
    this.rows = new Map(); // row: its frames
    this.commits = [];
    this.changes = [];
    this.done = null;
    this.begun = performance.now();
  }

  take(name, data) {
    if (name === "step") {
      if (!this.rows.has(data.row)) this.rows.set(data.row, []);
      this.rows.get(data.row).push({ ...data, time: performance.now() });
    } else if (name === "commit") this.commits.push(data);
    else if (name === "change") this.changes.push(data);
    else if (name === "done") this.done = data;
  }

  frames(row) {
    return this.rows.get(row) ?? [];
  }

  /** The row that won, of an edit in its last window; before that is known, the first. */
  get winner() {
    if (!this.done) return 0;
    return this.task === "edit" ? this.changes.at(-1)?.row ?? 0 : Math.max(0, this.done.candidates?.indexOf(this.done.text) ?? 0);
  }

  /** Whether what a row shows last became text. */
  settled(row) {
    return this.done !== null && row === this.winner;
  }

  /** Text committed so far. */
  get text() {
    return this.commits.map((commit) => commit.text).join("");
  }

  /** Steps so far, milliseconds per step as they arrived, tokens per second. null: not known yet. */
  figures(row) {
    const frames = this.frames(row);
    const first = frames[0], last = frames[frames.length - 1];
    let steps = 0;
    frames.forEach((frame, at) => {
      if (at + 1 === frames.length || frames[at + 1].canvas !== frame.canvas) steps += frame.step;
    });
    const seconds = ((last?.time ?? this.begun) - this.begun) / 1000;
    return {
      steps,
      ms: steps > first?.step ? (last.time - first.time) / (steps - first.step) : null,
      rate: this.done ? this.done.timings.tokens_per_second : last?.start ? last.start / seconds : null,
    };
  }
}

export class Cursor {
  constructor(recording, row) {
    this.recording = recording;
    this.row = row;
    this.at = -1; // the frame that is shown
    this.canvas = -1;
  }

  /** Play to frame `at`. -> its cells, [{text, kind, entropy}], trailing filler that was given left out. */
  go(at) {
    const frames = this.recording.frames(this.row);
    const frame = frames[at];
    if (!frame) return [];
    let from = this.at + 1;
    if (at < this.at || frame.canvas !== this.canvas) {
      from = frames.findIndex((other) => other.canvas === frame.canvas);
      this.ids = new Array(frame.width).fill(-1);
      this.texts = new Array(frame.width).fill("");
      this.pinned = new Set(frames[from].pinned);
    }
    for (; from <= at; from++) {
      for (const token of frames[from].tokens) {
        this.ids[token.at] = token.id;
        this.texts[token.at] = token.text;
      }
    }
    this.at = at;
    this.canvas = frame.canvas;
    return this.cells(frame, at === frames.length - 1 && this.recording.settled(this.row));
  }

  cells(frame, settled) {
    const { recording, ids, pinned } = this;
    const accepted = new Set(frame.accepted);
    const given = (at) => recording.filler.has(ids[at]) && pinned.has(at);
    let end = frame.width;
    while (end && given(end - 1)) end--;
    let room = Infinity; // of a settled canvas: positions that became text
    if (settled && (recording.task === "chat" || recording.task === "complete"))
      room = recording.done.usage.completion_tokens - frame.start;
    const cells = [];
    for (let at = 0; at < end; at++) {
      const entropy = frame.entropy[at];
      let kind = accepted.has(at) ? "accepted" : entropy > NOISE_NATS ? "noise" : "draft";
      if (pinned.has(at)) kind = "pinned";
      else if (settled) kind = "committed";
      if (recording.filler.has(ids[at]) || at >= room) kind = "filler";
      cells.push({ text: kind === "filler" ? "·" : shown(this.texts[at], kind), kind, entropy });
    }
    return cells;
  }
}

/** A token's text. Noise breaks no line, so that what has settled stays where it is; control characters are made visible. */
function shown(text, kind) {
  const plain = text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  return kind === "noise" ? plain.replace(/\s*\n\s*/g, "⏎") : plain;
}
