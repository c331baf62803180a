-- Order: deliveries that go one after the other. What there is of earlier deliveries goes as it did.

ALTER TABLE deliveries ADD COLUMN line TEXT;     -- with fifo, its ordering key, or '' without one: those of one line follow each other
ALTER TABLE deliveries ADD COLUMN turn INTEGER;  -- its turn in the line

CREATE INDEX deliveries_in_line ON deliveries (subscription, line, turn) WHERE state = 'pending' AND line IS NOT NULL;
