// The chosen colours, applied before the page is drawn.
"use strict";
(() => {
  const chosen = () => {
    try {
      return localStorage.getItem("capgpu-theme") ?? "auto";
    } catch {
      return "auto"; // storage may be turned off
    }
  };
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  apply(chosen());
  addEventListener("DOMContentLoaded", () => {
    for (const input of document.querySelectorAll("#theme input")) {
      input.checked = input.value === chosen();
      input.addEventListener("change", () => {
        apply(input.value);
        try {
          localStorage.setItem("capgpu-theme", input.value);
        } catch {
          // the choice then lasts as long as the page
        }
      });
    }
  });
})();
