-- Users first..last. Which tenant: the bucket that a draw falls into, so tenants differ in size as 1 : 1/2 : 1/3 ...
-- Phones: the number is multiplied by a factor without a common divisor with 10^8, so no two users share the last 8 digits.
WITH words AS (
    SELECT
        ARRAY['Amara', 'Anders', 'Beatriz', 'Björn', 'Chloé', 'Daniel', 'Elif', 'Emma', 'Farid', 'Fiona', 'Grace', 'Hana',
              'Ibrahim', 'Ingrid', 'Jakub', 'João', 'Kofi', 'Lena', 'Liam', 'Łukasz', 'Maja', 'Marta', 'Mei', 'Mohammed',
              'Nadia', 'Noah', 'Olga', 'Oscar', 'Priya', 'Quentin', 'Rosa', 'Søren', 'Sofía', 'Tariq', 'Uma', 'Viktor',
              'Wanjiru', 'Yusuf', 'Zoë', 'Zsófia'] AS given,
        ARRAY['Abebe', 'Andersson', 'Bauer', 'Bianchi', 'Çelik', 'Costa', 'Dubois', 'Eriksen', 'Fernández', 'García',
              'Goldberg', 'Haddad', 'Hansen', 'Ito', 'Jansen', 'Kaya', 'Khan', 'Kowalski', 'Kumar', 'Larsen', 'López',
              'Müller', 'Mwangi', 'Nguyen', 'Novák', 'O Brien', 'Okafor', 'Olsen', 'Papadopoulos', 'Pereira', 'Quist',
              'Rossi', 'Schmidt', 'Silva', 'Smith', 'Svensson', 'Tanaka', 'van Dijk', 'Weber', 'Wójcik', 'Yılmaz',
              'Zhang'] AS family,
        ARRAY['example.com', 'example.org', 'example.net', 'mail.example', 'post.example'] AS domains,
        ARRAY['+49151', '+4477', '+3361', '+3461', '+3934', '+3161', '+1202', '+4670'] AS prefixes
), drawn AS (
    SELECT
        number,
        width_bucket(
            pg_temp.draw(number, %(salt)s + 11, %(total)s), %(thresholds)s::bigint[]
        ) AS bucket,
        given[1 + pg_temp.draw(number, %(salt)s + 12, cardinality(given))] || ' '
            || family[1 + pg_temp.draw(number, %(salt)s + 13, cardinality(family))] AS name,
        domains[1 + pg_temp.draw(number, %(salt)s + 14, cardinality(domains))] AS domain,
        prefixes[1 + pg_temp.draw(number, %(salt)s + 15, cardinality(prefixes))] AS prefix,
        pg_temp.draw(number, %(salt)s + 16, %(step_us)s) AS jitter_us
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number, words
)
INSERT INTO app.users (id, tenant_id, name, email, phone, created_at)
OVERRIDING SYSTEM VALUE
SELECT
    number,
    (%(tenants)s::uuid[])[1 + bucket],
    name,
    -- letter by letter: lower() would ask the locale
    translate(
        name,
        'ABCDEFGHIJKLMNOPQRSTUVWXYZÇŁ áãéëíñóöøüıý',
        'abcdefghijklmnopqrstuvwxyzcl.aaeeinooouiy'
    ) || number || '@' || domain,
    prefix || lpad(mod(number * 61195309 + %(salt)s, 100000000)::text, 8, '0'),
    timestamptz '2024-01-01 00:00:00+00' + (number * %(step_us)s + jitter_us) * interval '1 microsecond'
FROM drawn;
