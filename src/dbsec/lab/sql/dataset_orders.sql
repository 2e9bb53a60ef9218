-- Orders first..last, in the order of time. The buyer is drawn among the users who had signed up by then, so early users
-- have more orders; the buyer's tenant comes from the same draw as in dataset_users.sql, without a join.
WITH words AS (
    SELECT
        ARRAY['EUR', 'USD', 'GBP', 'SEK', 'CHF'] AS currencies,
        ARRAY[0, 49, 90, 95, 99] AS endings,
        ARRAY['leave it with the neighbour', 'gift wrap, please', 'ring twice', 'invoice to the office',
              'second attempt', 'call before delivery', 'back door', 'fragile'] AS notes
), buyers AS (
    SELECT
        number,
        1 + pg_temp.draw(number, %(salt)s + 21, greatest(1, %(users)s::bigint * number / %(orders)s)) AS buyer
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number
), drawn AS (
    SELECT
        number,
        buyer,
        width_bucket(
            pg_temp.draw(buyer, %(salt)s + 11, %(total)s), %(thresholds)s::bigint[]
        ) AS bucket
    FROM buyers
)
INSERT INTO app.orders (id, tenant_id, user_id, amount_cents, currency, note, created_at)
OVERRIDING SYSTEM VALUE
SELECT
    number,
    (%(tenants)s::uuid[])[1 + bucket],
    buyer,
    100 * (1 + pg_temp.draw(number, %(salt)s + 22, 30) * pg_temp.draw(number, %(salt)s + 23, 30))
        + endings[1 + pg_temp.draw(number, %(salt)s + 24, cardinality(endings))],
    currencies[1 + mod(bucket, cardinality(currencies))],
    CASE pg_temp.draw(number, %(salt)s + 25, 8)
        WHEN 0 THEN notes[1 + pg_temp.draw(number, %(salt)s + 26, cardinality(notes))]
    END,
    -- a day later than the users' clock: nobody buys before signing up
    timestamptz '2024-01-02 00:00:00+00' + (number * %(step_us)s + pg_temp.draw(number, %(salt)s + 27, %(step_us)s)) * interval '1 microsecond'
FROM drawn, words;
