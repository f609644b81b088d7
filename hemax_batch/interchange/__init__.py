"""A slide's results in other programs' formats, made from the results alone: Parquet, AnnData, FHIR, DICOM."""
