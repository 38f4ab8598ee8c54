create table Realisations (
    id integer primary key autoincrement not null,
    drvPath text not null,
    outputName text not null,
    outputPath integer not null,
    signatures text,
    foreign key (outputPath) references ValidPaths(id) on delete cascade
);
create index IndexRealisations on Realisations(drvPath, outputName);
create table RealisationsRefs (
    referrer integer not null,
    realisationReference integer,
    foreign key (referrer) references Realisations(id) on delete cascade,
    foreign key (realisationReference) references Realisations(id) on delete restrict
);
create index IndexRealisationsRefs on RealisationsRefs(referrer);
create index IndexRealisationsRefsOnOutputPath on Realisations(outputPath);
