// Numbers and times as people read them.

const number = (digits) => new Intl.NumberFormat(undefined, { maximumFractionDigits: digits });
const whole = number(0);
const tenth = number(1);

export const count = (n) => whole.format(n);
export const decimal = (n) => (n >= 100 ? whole : tenth).format(n);

/** 1.2 GB: in powers of 1000, as disks and downloads are sold. */
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return `${(unit < 2 || n >= 100 ? whole : tenth).format(n)} ${units[unit]}`;
}

/** A length of time in its two largest units. */
export function duration(seconds) {
  if (seconds < 1) return `${whole.format(seconds * 1000)} ms`;
  if (seconds < 10) return `${tenth.format(Math.max(0, seconds))} s`;
  if (seconds < 90) return `${whole.format(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60 ? `${minutes % 60} min` : ""}`.trim();
  return `${Math.round(hours / 24)} days`;
}

/** Whole seconds since a moment of the box, at least one; the clocks may differ a little. */
export const since = (moment) => Math.max(1, Math.round((Date.now() - Date.parse(moment)) / 1000));
export const until = (moment) => Math.max(0, (Date.parse(moment) - Date.now()) / 1000);
