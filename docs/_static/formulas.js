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

// A link to a step that is folded away opens what it is folded in.
function unfold() {
  const place = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!place) return;
  for (let e = place.closest("details"); e; e = e.parentElement.closest("details")) e.open = true;
  const folded = place.matches("details") ? place : place.nextElementSibling;
  if (folded && folded.matches("details")) folded.open = true;
  place.scrollIntoView();
}
addEventListener("DOMContentLoaded", unfold);
addEventListener("hashchange", unfold);
