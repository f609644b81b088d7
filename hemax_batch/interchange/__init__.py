"""A slide's results in other programs' formats: Parquet, AnnData, FHIR, DICOM.

Each is made from the published results alone; `export` lists the formats.
"""
