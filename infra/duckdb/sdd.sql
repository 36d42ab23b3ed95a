-- Views over a dataset folder, for DuckDB:
--
--     SET VARIABLE root = 'out/demo/sdd';
--     .read infra/duckdb/sdd.sql
--     FROM funnel;
--
-- `subject-diffusion inspect ROOT` does the first two for you. Pictures are read only where `image` is selected. Keys are
-- binary: show them with hex(key), find one with key = from_hex('...').
--
-- Where a dataset was begun in version 1 of the format, `.read infra/duckdb/version_1.sql` first.

-- The input URLs, and the results of each stage.
CREATE VIEW IF NOT EXISTS urls AS FROM read_parquet(getvariable('root') || '/urls/*.parquet');
CREATE VIEW IF NOT EXISTS images AS
    SELECT * EXCLUDE (state, reason, detail) FROM read_parquet(getvariable('root') || '/images/*.parquet')
    WHERE state = 'kept';
CREATE VIEW IF NOT EXISTS captions AS
    SELECT key, caption FROM read_parquet(getvariable('root') || '/captions/*.parquet') WHERE state = 'kept';
CREATE VIEW IF NOT EXISTS nouns AS
    SELECT key, noun.* FROM (
        SELECT key, unnest(nouns) AS noun FROM read_parquet(getvariable('root') || '/nouns/*.parquet')
        WHERE state = 'kept');
CREATE VIEW IF NOT EXISTS detections AS
    SELECT key, detection.* FROM (
        SELECT key, unnest(detections) AS detection
        FROM read_parquet(getvariable('root') || '/detections/*.parquet') WHERE state = 'kept');

-- The dataset: one row per image, and one row per entity.
CREATE VIEW IF NOT EXISTS sdd AS FROM read_parquet(getvariable('root') || '/sdd/*.parquet');
CREATE VIEW IF NOT EXISTS entities AS
    SELECT key, caption, entity.*, entity.mask_area_px / (width_px * height_px) AS mask_share
    FROM (SELECT key, caption, width_px, height_px, unnest(entities) AS entity FROM sdd);
CREATE VIEW IF NOT EXISTS labels AS
    SELECT label, count(*) AS entities, count(DISTINCT key) AS images, round(avg(score), 3) AS mean_score
    FROM entities GROUP BY label ORDER BY entities DESC, label;
CREATE VIEW IF NOT EXISTS boxes_per_image AS
    SELECT len(entities) AS boxes, count(*) AS images FROM sdd GROUP BY boxes ORDER BY boxes;

-- What became of each input URL; `candidates` has every box of the segmenter's input, kept or not: how much of it its
-- mask fills, what SAM thinks of the mask, and the rules of App. B.1 that it broke.
CREATE VIEW IF NOT EXISTS ledger AS FROM read_parquet(getvariable('root') || '/ledger/*.parquet');
CREATE VIEW IF NOT EXISTS funnel AS
    SELECT state, stage, reason, count(*) AS urls, round(count(*) / sum(count(*)) OVER (), 4) AS share
    FROM ledger GROUP BY state, stage, reason
    ORDER BY list_position(['images', 'captions', 'nouns', 'detections', 'entities', 'sdd'], stage), urls DESC, reason;
CREATE VIEW IF NOT EXISTS candidates AS
    SELECT key, url, state, width_px, height_px, judged.label, judged.score, judged.box, judged.mask_fill,
        judged.predicted_iou, judged.stability, judged.broken
    FROM (SELECT key, url, state, width_px, height_px, unnest(candidates) AS judged FROM ledger);
CREATE VIEW IF NOT EXISTS broken_rules AS
    SELECT rule, count(*) AS candidates FROM (SELECT unnest(broken) AS rule FROM candidates)
    GROUP BY rule ORDER BY candidates DESC, rule;

-- Label-error scores of entities and of candidates that break a rule, where a second detector has run: the lowest of
-- the three qualities is `quality`, and the entities that are most likely wrong come first.
CREATE VIEW IF NOT EXISTS label_errors AS
    SELECT key, url, state, pair[1].label AS label, pair[1].box AS box, pair[1].broken AS broken,
        pair[2].confirmed_iou AS confirmed_iou, pair[2].label_quality AS label_quality,
        pair[2].mask_quality AS mask_quality,
        least(pair[2].confirmed_iou, pair[2].label_quality, pair[2].mask_quality) AS quality
    FROM (SELECT key, url, ledger.state AS state, unnest(list_zip(candidates, confirmations)) AS pair
        FROM ledger JOIN (FROM read_parquet(getvariable('root') || '/confirmations/*.parquet') WHERE state = 'kept')
            USING (key))
    WHERE quality IS NOT NULL ORDER BY quality, key;
CREATE VIEW IF NOT EXISTS overlooked AS
    SELECT key, box.label, box.score, box.box
    FROM (SELECT key, unnest(overlooked) AS box
        FROM read_parquet(getvariable('root') || '/confirmations/*.parquet'))
    ORDER BY score DESC, key;

-- Corrections of people that a build has taken in, and what became of each.
CREATE VIEW IF NOT EXISTS corrections AS
    SELECT key, correction.* FROM (SELECT key, unnest(corrections) AS correction FROM ledger);

-- Nouns of captions that were not looked for: stop_word and stop_phrase are lists of labeling.nouns, and the label of a
-- repeated one belongs to an earlier noun of its caption.
CREATE VIEW IF NOT EXISTS removed_nouns AS
    SELECT noun.reason AS reason, noun.label AS label, count(*) AS nouns
    FROM (SELECT unnest(removed_nouns) AS noun FROM ledger)
    GROUP BY ALL ORDER BY nouns DESC, reason, label;

-- Failed downloads by host and reason (http_404 is HTTP status 404); `share` is of all URLs of the host.
CREATE OR REPLACE MACRO host_of(url) AS
    lower(regexp_extract(url, '^\s*[^:/?#]+://(?:[^/?#]*@)?(\[[^\]]*\]|[^:/?#\s]*)', 1));
CREATE VIEW IF NOT EXISTS hosts AS
    SELECT host, state, reason, urls AS failures, round(urls / sum(urls) OVER (PARTITION BY host), 4) AS share
    FROM (SELECT host_of(url) AS host, state, stage, reason, count(*) AS urls FROM ledger GROUP BY ALL)
    QUALIFY stage = 'images' AND state <> 'dropped'
    ORDER BY failures DESC, host, reason;

-- Why was an image lost? What do captions say?
CREATE OR REPLACE MACRO why(text) AS TABLE
    SELECT key, url, state, stage, reason, detail, candidates FROM ledger WHERE contains(url, text);
CREATE OR REPLACE MACRO captions_with(word) AS TABLE
    SELECT key, caption FROM sdd WHERE regexp_matches(caption, '\b' || regexp_escape(word) || '\b', 'i');
