// Typesets every formula of the page; one that KaTeX cannot read becomes a .katex-error, which the browser test finds.
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".formula")) {
    katex.render(place.textContent, place, {
      displayMode: place.classList.contains("display"),
      throwOnError: false,
      strict: false,
    });
  }
  document.documentElement.dataset.formulas = "done";
});
