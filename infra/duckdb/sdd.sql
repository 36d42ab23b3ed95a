-- Views over a dataset folder, for DuckDB:
--
--     SET VARIABLE root = 'out/demo/sdd';
--     .read infra/duckdb/sdd.sql
--     FROM funnel;
--
-- `subject-diffusion inspect ROOT` does the first two for you. Pictures are read only where `image` is selected.

-- What was asked for, and what came of it.
CREATE OR REPLACE VIEW urls AS FROM read_parquet(getvariable('root') || '/urls/*.parquet');
CREATE OR REPLACE VIEW images AS
    SELECT * EXCLUDE (state, reason, detail) FROM read_parquet(getvariable('root') || '/images/*.parquet')
    WHERE state = 'kept';
CREATE OR REPLACE VIEW captions AS
    SELECT key, caption FROM read_parquet(getvariable('root') || '/captions/*.parquet') WHERE state = 'kept';
CREATE OR REPLACE VIEW nouns AS
    SELECT key, noun.* FROM (
        SELECT key, unnest(nouns) AS noun FROM read_parquet(getvariable('root') || '/nouns/*.parquet')
        WHERE state = 'kept');
CREATE OR REPLACE VIEW detections AS
    SELECT key, detection.* FROM (
        SELECT key, unnest(detections) AS detection
        FROM read_parquet(getvariable('root') || '/detections/*.parquet') WHERE state = 'kept');

-- The dataset: one row per image, and one row per entity.
CREATE OR REPLACE VIEW sdd AS FROM read_parquet(getvariable('root') || '/sdd/*.parquet');
CREATE OR REPLACE VIEW entities AS
    SELECT key, caption, entity.*, entity.mask_area_px / (width_px * height_px) AS mask_share
    FROM (SELECT key, caption, width_px, height_px, unnest(entities) AS entity FROM sdd);
CREATE OR REPLACE VIEW labels AS
    SELECT label, count(*) AS entities, count(DISTINCT key) AS images, round(avg(score), 3) AS mean_score
    FROM entities GROUP BY label ORDER BY entities DESC, label;
CREATE OR REPLACE VIEW boxes_per_image AS
    SELECT len(entities) AS boxes, count(*) AS images FROM sdd GROUP BY boxes ORDER BY boxes;

-- What became of each input URL; `candidates` has every box with the rules of App. B.1 that it broke.
CREATE OR REPLACE VIEW ledger AS FROM read_parquet(getvariable('root') || '/ledger/*.parquet');
CREATE OR REPLACE VIEW funnel AS
    SELECT state, stage, reason, count(*) AS urls, round(count(*) / sum(count(*)) OVER (), 4) AS share
    FROM ledger GROUP BY state, stage, reason
    ORDER BY list_position(['images', 'captions', 'nouns', 'detections', 'entities', 'sdd'], stage), urls DESC, reason;
CREATE OR REPLACE VIEW candidates AS
    SELECT key, url, state, candidate.*
    FROM (SELECT key, url, state, unnest(candidates) AS candidate FROM ledger);
CREATE OR REPLACE VIEW broken_rules AS
    SELECT rule, count(*) AS candidates FROM (SELECT unnest(broken) AS rule FROM candidates)
    GROUP BY rule ORDER BY candidates DESC, rule;

-- Why was an image lost? What do captions say?
CREATE OR REPLACE MACRO why(text) AS TABLE
    SELECT url, state, stage, reason, detail, candidates FROM ledger WHERE contains(url, text);
CREATE OR REPLACE MACRO captions_with(word) AS TABLE
    SELECT key, caption FROM sdd WHERE regexp_matches(caption, '\b' || regexp_escape(word) || '\b', 'i');
