-- dbsec: phase contract
--
-- app.users.email_normalized becomes NOT NULL. Run it when 002 has left no row and every release writes the column or
-- lets the trigger of 001 do it. SET NOT NULL alone would read the whole table under ACCESS EXCLUSIVE: the proof is
-- brought before, under a lock that lets everybody read and write.
-- Each statement is a transaction of its own; running the file again changes nothing.

SET lock_timeout = '500ms';
SET statement_timeout = '5s';

-- what a run that broke off has left
ALTER TABLE app.users DROP CONSTRAINT IF EXISTS users_email_normalized_present;

-- ACCESS EXCLUSIVE for a moment, nothing is read: from here on no new row is without it
ALTER TABLE app.users ADD CONSTRAINT users_email_normalized_present CHECK (email_normalized IS NOT NULL) NOT VALID;

-- SHARE UPDATE EXCLUSIVE while the table is read, for minutes if need be
SET statement_timeout = '30min';
ALTER TABLE app.users VALIDATE CONSTRAINT users_email_normalized_present;

-- ACCESS EXCLUSIVE for a moment: the valid constraint is the proof, nothing is read
SET statement_timeout = '5s';
ALTER TABLE app.users ALTER COLUMN email_normalized SET NOT NULL;
ALTER TABLE app.users DROP CONSTRAINT users_email_normalized_present;
