// Runs before the first paint, so that nobody sees the wrong colours.
"use strict";
{
  let chosen;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Denied: the system's colours.
  }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
}
