"""A gallery of annotated images as HTML: filters by facet and by word, and a switch for the drawings."""

import json
from collections import Counter
from collections.abc import Iterator
from html import escape

from infra.report.document import AnnotatedGallery, AnnotatedImage
from infra.report.image_element import image_element

GALLERY_STYLE = """
.filters { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; align-items: end; margin: .5rem 0 1rem;
  font-size: .9rem; }
.filters label { display: flex; flex-direction: column; gap: .15rem; color: var(--soft); }
.filters label.switch { flex-direction: row; align-items: center; gap: .4rem; }
.filters select, .filters input[type=search] { font: inherit; color: var(--ink); background: var(--paper);
  border: 1px solid var(--line); border-radius: 4px; padding: .25rem .4rem; max-width: 16rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.cards figure { margin: 0; }
.cards figure[hidden] { display: none; }
.frame { position: relative; display: block; background: var(--band); border-radius: 4px; overflow: hidden; }
.frame img { display: block; width: 100%; height: auto; }
.frame .none { aspect-ratio: 4 / 3; }
.frame svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.undrawn .frame svg { visibility: hidden; }
.cards figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; padding-top: .3rem; }
.cards figcaption small { display: block; color: var(--soft); font-size: .72rem; }
"""
GALLERY_SCRIPT = """<script>
for (const gallery of document.querySelectorAll(".gallery")) {
  const cards = [...gallery.querySelectorAll(".cards figure")];
  const facets = cards.map((card) => JSON.parse(card.dataset.facets));
  const selects = [...gallery.querySelectorAll("select")], words = gallery.querySelector("input[type=search]");
  const show = () => {
    const asked = words.value.trim().toLowerCase();
    cards.forEach((card, at) => {
      const chosen = selects.every((one) => !one.value || (facets[at][one.name] || []).includes(one.value));
      card.hidden = !chosen || !card.textContent.toLowerCase().includes(asked);
    });
    const shown = cards.filter((card) => !card.hidden).length;
    gallery.querySelector("output").textContent = `${shown} of ${cards.length} images`;
  };
  for (const one of [...selects, words]) one.addEventListener("input", show);
  gallery.querySelector("input[type=checkbox]").addEventListener("input", (event) =>
    gallery.classList.toggle("undrawn", !event.target.checked));
}
</script>
"""


def annotated_gallery(gallery: AnnotatedGallery) -> Iterator[str]:
    """Yield the parts of the gallery. Without scripts, all its images are shown."""
    count = len(gallery.images)
    yield f'<div class="gallery"><p class="title"><strong>{escape(gallery.caption)}</strong></p>\n<div class="filters">'
    for facet, values in _values(gallery).items():
        yield f'<label>{escape(facet)}<select name="{escape(facet)}"><option value="">all</option>'
        yield from (
            f'<option value="{escape(value)}">{escape(value)} ({images})</option>' for value, images in values.items()
        )
        yield "</select></label>"
    yield '<label>words<input type="search"></label>'
    yield '<label class="switch"><input type="checkbox" checked> boxes and masks</label>'
    yield f'<output>{count} of {count} images</output></div>\n<div class="cards">\n'
    yield from map(_card, gallery.images)
    yield "</div></div>\n"


def _values(gallery: AnnotatedGallery) -> dict[str, dict[str, int]]:
    """Return the number of images by facet and value, the most frequent value of a facet first."""
    counts: dict[str, Counter[str]] = {}
    for image in gallery.images:
        for facet, values in image.facets.items():
            counts.setdefault(facet, Counter()).update(set(values))
    return {
        facet: dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))) for facet, values in counts.items()
    }


def _card(image: AnnotatedImage) -> str:
    facets = escape(json.dumps({facet: list(values) for facet, values in image.facets.items()}))
    overlay = (
        f'<svg viewBox="0 0 {image.width_px} {image.height_px}" preserveAspectRatio="none" aria-hidden="true">'
        f"{image.overlay}</svg>"
        if image.overlay
        else ""
    )
    notes = "".join(f"<small>{escape(note)}</small>" for note in image.notes)
    return (
        f'<figure data-facets="{facets}"><div class="frame">{image_element(image.picture)}{overlay}</div>'
        f"<figcaption>{escape(image.picture.caption)}{notes}</figcaption></figure>\n"
    )
