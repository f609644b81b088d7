"""A slide's results in the formats of other programs: Parquet, AnnData, FHIR, DICOM.

Each export reads the published results alone. `export` lists the formats.
"""
