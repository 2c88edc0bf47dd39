"""The bundled sample of real events: how it was made, how it is read, and the broken records mixed into a demo.

`build` makes two Parquet files from the published data sets once, `log` reads them back as records in event-time
order, `broken` adds what a worker must survive. `ATTRIBUTION.md` names sources and licences, and says what is
composed.
"""
