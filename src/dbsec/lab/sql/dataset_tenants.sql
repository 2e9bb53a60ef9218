-- One tenant for each key hash. Salt (100 times the seed) and number decide everything but the hash.
WITH words AS (
    SELECT
        ARRAY['Northwind', 'Harbour', 'Granite', 'Juniper', 'Lantern', 'Meridian', 'Orchard', 'Pinecrest', 'Quayside',
              'Riverbend', 'Saltmarsh', 'Tamarack', 'Umber', 'Verdant', 'Westgate', 'Yarrow', 'Zephyr', 'Alder'] AS places,
        ARRAY['Books', 'Bikes', 'Coffee', 'Cycles', 'Dental', 'Energy', 'Foods', 'Gardens', 'Glass', 'Instruments',
              'Labs', 'Logistics', 'Optics', 'Outdoors', 'Paper', 'Pharmacy', 'Textiles', 'Tools', 'Travel'] AS trades
), named AS (
    SELECT
        key.number,
        key.hash,
        places[1 + pg_temp.draw(key.number, %(salt)s + 1, cardinality(places))] AS place,
        trades[1 + pg_temp.draw(key.number, %(salt)s + 2, cardinality(trades))] AS trade
    FROM unnest(%(hashes)s::bytea[]) WITH ORDINALITY AS key (hash, number), words
)
INSERT INTO app.tenants (id, slug, name, api_key_hash)
SELECT
    encode(substr(sha256(convert_to(format('tenant %%s of %%s', number, %(salt)s::bigint), 'UTF8')), 1, 16), 'hex')::uuid,
    lower(format('%%s-%%s-%%s', place, trade, number)),
    format('%%s %%s', place, trade),
    hash
FROM named
ORDER BY number
RETURNING id, slug;
