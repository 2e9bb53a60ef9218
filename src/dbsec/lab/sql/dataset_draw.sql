-- Numbers that look random and are the same on every server. random() is not: its stream changed with PostgreSQL 15,
-- and a plan may draw in another order. hashint8extended cannot change, because hash partitions live by it.
CREATE OR REPLACE FUNCTION pg_temp.draw(number bigint, salt bigint, below bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN mod(hashint8extended(number, salt) & 9223372036854775807, below);
