-- Views over files of version 1, which named a noun's span "start" and "end" and whose ledger lacked the sizes of images,
-- removed nouns and SAM's scores. Read this file before sdd.sql, which defines the other views. A view here fails to bind
-- over files of a later version; sdd.sql then defines it.

CREATE VIEW IF NOT EXISTS nouns AS
    SELECT key, noun.label, noun."start" AS span_start, noun."end" AS span_end
    FROM (SELECT key, unnest(nouns) AS noun FROM read_parquet(getvariable('root') || '/nouns/*.parquet')
          WHERE state = 'kept');
CREATE VIEW IF NOT EXISTS detections AS
    SELECT key, found.label, found."start" AS span_start, found."end" AS span_end, found.score, found.box
    FROM (SELECT key, unnest(detections) AS found FROM read_parquet(getvariable('root') || '/detections/*.parquet')
          WHERE state = 'kept');
CREATE VIEW IF NOT EXISTS sdd AS
    SELECT * REPLACE ([{
        label: e.label, span_start: e."start", span_end: e."end", score: e.score, box: e.box, mask: e.mask,
        mask_area_px: e.mask_area_px, predicted_iou: e.predicted_iou, stability: e.stability
    } FOR e IN entities] AS entities)
    FROM read_parquet(getvariable('root') || '/sdd/*.parquet');
CREATE VIEW IF NOT EXISTS ledger AS
    SELECT * REPLACE ([struct_insert(
        c, mask_fill := NULL::FLOAT, predicted_iou := NULL::FLOAT, stability := NULL::FLOAT
    ) FOR c IN candidates] AS candidates), NULL::INTEGER AS width_px, NULL::INTEGER AS height_px,
        NULL::STRUCT(label VARCHAR, reason VARCHAR)[] AS removed_nouns
    FROM read_parquet(getvariable('root') || '/ledger/*.parquet');

-- What the ledger lacks, from entities/, whose candidates stand in the same order, and from images/.
CREATE OR REPLACE MACRO area_px(box) AS
    greatest(box.x1::DOUBLE - box.x0, 0) * greatest(box.y1::DOUBLE - box.y0, 0);
CREATE VIEW IF NOT EXISTS candidates AS
    SELECT key, url, state, width_px, height_px, judged.label, judged.score, judged.box,
        CASE WHEN segment IS NOT NULL THEN coalesce(segment.area_px / nullif(area_px(judged.box), 0), 0)::FLOAT END
            AS mask_fill,
        segment.predicted_iou, segment.stability, judged.broken
    FROM (
        SELECT key, l.url, l.state, i.width_px, i.height_px,
            unnest(l.candidates) AS judged, unnest([c.segment FOR c IN e.candidates IF c."start" >= 0]) AS segment
        FROM read_parquet(getvariable('root') || '/ledger/*.parquet') AS l
        JOIN read_parquet(getvariable('root') || '/entities/*.parquet') AS e USING (key)
        JOIN read_parquet(getvariable('root') || '/images/*.parquet') AS i USING (key));
